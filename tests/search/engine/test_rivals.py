"""Racing on the driver's side: what a trial runs against, and what becomes of one that lost."""

from pathlib import Path

import pytest
from optuna.samplers import RandomSampler
from optuna.trial import TrialState

from search.engine.rivals import Rivals
from search.engine.schedulers import make_scheduler
from search.journal.view import result_of
from search.study.load import parse_study
from tests.support.journals import TOML, Sample, record, sample_study
from trainables.core.cache import write_durably
from trainables.core.errors import UserError
from trainables.core.scores import Scores, from_text, mean_of, scores_file

RACING = TOML + '[scheduler]\nname = "racing"\nfirst = 0.25\n'


def test_a_trial_runs_against_the_front_as_it_is(tmp_path: Path) -> None:
    sample = Sample(tmp_path, sample_study(RACING))
    rivals = Rivals(sample.study, sample.journal, sample.store.results)
    assert rivals.race() is None, "there is no baseline yet"
    sample.run()
    for number in (0, 1):
        path = scores_file(sample.store.results, sample.journal.uid(number))
        write_durably(path, Scores("rows", {"perplexity": mean_of([number, 2])}).pack())
    race = rivals.race()
    assert race is not None and (race.first, race.factor) == (0.25, 2.0)
    assert [one.number for one in race.front] == [0, 1, 2]
    assert race.baseline.metrics == {"perplexity": 20.0, "parameters": 134e6}
    assert from_text(race.front[1].scores)["perplexity"].total() == 1.5
    assert race.front[2].scores == "", "it has no file: its items decide nothing"
    (limit,) = race.limits
    assert limit.excess(26.1, 20.0) > 0 > limit.excess(25.9, 20.0)
    sample.close()


def test_other_studies_do_not_race(tmp_path: Path) -> None:
    sample = Sample(tmp_path).run(1)
    assert Rivals(sample.study, sample.journal, sample.store.results).race() is None
    sample.close()
    assert make_scheduler(sample_study(RACING).scheduler, sample.study.objectives) is None


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('metric = "perplexity"', "scheduler.metric"),
        ("first = 1.5", "scheduler.first"),
        ("share = 0.5", "scheduler.share"),
    ],
)
def test_what_cannot_be_set_is_named(line: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        parse_study(f'{TOML}[scheduler]\nname = "racing"\n{line}\n', "depth.toml")


def test_a_trial_out_of_the_race_is_seen_by_the_sampler_as_it_would_have_been(
    tmp_path: Path,
) -> None:
    sample = Sample(tmp_path)
    sample.baseline()
    number = sample.hand_out((1, 1), 40)
    seen = {"perplexity": 90.0, "parameters": 127e6}
    lost = record("", number, {}) | {"state": "pruned", "seen": seen, "share": 0.25}
    sample.journal.settle(number, lost | {"reason": "after 25% of the items: misses it"})
    row = sample.journal.trials()[number]
    assert row.state == TrialState.PRUNED and row.user_attrs["record"]["metrics"] == {}
    sample.journal.begin(RandomSampler(seed=1), [])  # as a resume does
    assert sample.journal.copy is not None
    (known,) = sample.journal.copy.study.trials
    assert known.state == TrialState.COMPLETE and known.values == [90.0, 127e6]
    assert known.constraints == row.constraints
    assert row.constraints["perplexity <= 130% of baseline"] == pytest.approx(90 / 26 - 1)
    result = result_of(row)
    assert result.state == "pruned" and not result.feasible and not result.on_front
    sample.close()
