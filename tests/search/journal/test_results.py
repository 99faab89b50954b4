"""What a study's rows read as: the front, the best, the counts, its state."""

import itertools
import random
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import tomli_w

from search.journal.lock import study_lock
from search.journal.results import Result, front, losses, ranked
from search.journal.store import Store
from search.journal.view import View, read, results_of
from search.ledger.run_fields import study_values
from search.report.best import best, status_json
from search.report.tables import status_lines
from search.study.constraints import parse_where
from search.study.load import study_toml
from search.study.schema import Budget
from tests.support.journals import TOML, Sample, record, sample_study
from trainables.core.errors import UserError


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sample]:
    made = Sample(tmp_path_factory.mktemp("runs")).run()
    yield made
    made.close()


def _result(number: int, metrics: dict[str, float], miss: float = -1.0) -> Result:
    return Result(number, "complete", {}, metrics, {"limit": miss}, {})


def numbers(results: "tuple[Result, ...] | list[Result]") -> list[int]:
    return [result.number for result in results]


def test_front_of_a_study(sample: Sample) -> None:
    view = read(sample.store)
    assert view.baseline is not None and view.baseline.on_front
    assert [one.number for one in view.results if one.on_front] == [0, 1, 2]
    assert numbers(front(view.results, view.study.objectives)) == [0, 1, 2]
    assert [one.feasible for one in view.results] == [True, True, True, True, False, False, True]
    assert view.trial(4).reason == "perplexity was nan"
    assert view.trial(1).params["omission.skip.20"] == 1
    with pytest.raises(UserError, match="0 \\(the baseline\\) to 6"):
        view.trial(7)


def test_front_is_what_nobody_dominates() -> None:
    chance = random.Random(3)
    for objectives in ({"a": "min"}, {"a": "min", "b": "max"}, dict.fromkeys("abc", "max")):
        results = [
            _result(n, {name: float(chance.randint(0, 6)) for name in "abc"}) for n in range(60)
        ]
        naive = {
            one.number
            for one in results
            if not any(
                losses(o, objectives) != losses(one, objectives)
                and all(
                    x <= y
                    for x, y in zip(losses(o, objectives), losses(one, objectives), strict=True)
                )
                for o in results
            )
        }
        found = front(results, objectives)
        assert set(numbers(found)) == naive
        assert [losses(one, objectives) for one in found] == sorted(
            losses(one, objectives) for one in found
        )
        layers = ranked(results, objectives)
        left = list(results)
        for layer in layers:
            assert layer == front(left, objectives)
            left = [one for one in left if one not in layer]
        assert sorted(numbers(list(itertools.chain(*layers)))) == list(range(60))


def test_infeasible_results_are_never_on_the_front() -> None:
    found = front([_result(1, {"a": 1.0}, miss=0.2), _result(2, {"a": 2.0})], {"a": "min"})
    assert numbers(found) == [2]


def test_best_is_the_front_without_the_baseline(sample: Sample) -> None:
    found = best(read(sample.store))
    assert numbers(found.trials) == [1, 2]
    assert found.note is None


def test_best_where_and_top(sample: Sample) -> None:
    view = read(sample.store)
    assert numbers(best(view, parse_where("parameters <= 128e6")).trials) == [2]
    assert numbers(best(view, parse_where("parameters <= baseline - 1")).trials) == [1, 2]
    assert numbers(best(view, top=1).trials) == [1]
    four = best(view, top=4)  # the untouched model dominates trial 3
    assert numbers(four.trials) == [1, 2, 6]
    assert four.note == "the other trials do not improve on the untouched model"
    none = best(view, parse_where("perplexity <= 20.5"), top=2)
    assert numbers(none.trials) == [1, 6]
    assert none.note is not None and "no trial meets" in none.note
    assert "perplexity <= 20.5" in none.note and "130% of baseline" in none.note


def test_closest_when_none_meets_the_constraints(tmp_path: Path) -> None:
    made = Sample(tmp_path)
    made.baseline()
    for perplexity in (90.0, 40.0, 60.0):
        made.settle(made.hand_out(), {"perplexity": perplexity, "parameters": 1e6})
    found = best(read(made.store), top=2)
    made.close()
    assert numbers(found.trials) == [2, 3]
    assert found.note is not None and "these come closest" in found.note


def _with(folder: Path, *metrics: tuple[float, float], text: str = TOML) -> View:
    """A study whose trials came out so: perplexity, parameters."""
    made = Sample(folder, sample_study(text))
    made.baseline()
    for perplexity, parameters in metrics:
        made.settle(made.hand_out(), {"perplexity": perplexity, "parameters": parameters})
    view = read(made.store)
    made.close()
    return view


def test_no_trial_beats_the_untouched_model(tmp_path: Path) -> None:
    view = _with(tmp_path, (21.0, 135e6), (20.5, 134e6), (90.0, 1e6))  # the last is infeasible
    for found in (best(view), best(view, top=3), best(view, parse_where("perplexity <= 22"))):
        assert found.trials == ()
        assert found.note == "no trial improves on the untouched model"
    far = best(view, parse_where("perplexity <= 1"))
    assert numbers(far.trials) == [3] and "these come closest" in str(far.note)


def test_neither_status_nor_the_ledger_names_a_trial_that_it_beats(tmp_path: Path) -> None:
    beaten = _with(tmp_path / "one", (21.0, 135e6), (20.5, 134e6))
    assert status_json(beaten)["best"] is None
    assert not beaten.study.objectives.keys() & study_values(beaten, whole=False).keys()
    mixed = _with(tmp_path / "two", (20.5, 135e6), (21.0, 130e6))
    assert status_json(mixed)["best"] == 2
    assert study_values(mixed, whole=False)["perplexity"] == 21.0


def test_a_dominated_trial_is_not_named_beside_one_that_improves(tmp_path: Path) -> None:
    view = _with(tmp_path, (20.5, 135e6), (21.0, 130e6))
    assert numbers(best(view).trials) == [2]
    assert numbers(best(view, top=2).trials) == [2]
    assert numbers(best(view, parse_where("parameters <= 131e6")).trials) == [2]
    beaten = best(view, parse_where("parameters >= 134.5e6"))  # which the untouched one misses
    assert numbers(beaten.trials) == [1] and beaten.note is None


def test_the_closest_is_none_that_the_untouched_model_beats(tmp_path: Path) -> None:
    view = _with(tmp_path, (30.0, 134e6), (27.0, 135e6))
    found = best(view)
    assert found.trials == ()
    assert found.note is not None and "and none improves on the untouched model" in found.note


def test_an_infeasible_untouched_model_beats_nobody(tmp_path: Path) -> None:
    text = TOML.replace('"<= 130% of baseline"', '">= 25"')
    assert numbers(best(_with(tmp_path, (26.0, 134e6), text=text)).trials) == [1]


def test_a_finished_study_counts_up(sample: Sample) -> None:
    view = read(sample.store)
    ended = {"finished": 5, "repeats": 0, "failed": 1}
    assert view.counts == {**ended, "running": 0, "waiting": 0, "planned": 6}
    assert view.state == "finished"


def test_a_trial_that_gave_a_known_model_takes_no_place(tmp_path: Path) -> None:
    made = Sample(tmp_path).run(upto=5)
    number = made.hand_out()
    again = record(made.journal.uid(number), number, {"perplexity": 20.0, "parameters": 134e6})
    made.journal.settle(number, again | {"lineage": f"{0:016x}", "same_as": "depth/0"})
    view = read(made.store)
    assert (view.counts["finished"], view.counts["repeats"], made.journal.repeats) == (4, 1, 1)
    assert view.state == "interrupted"  # one more model is wanted
    assert "1 repeats beside them" in "\n".join(status_lines(view))
    made.close()


def test_running_and_interrupted(tmp_path: Path) -> None:
    made = Sample(tmp_path).run(upto=2)
    made.hand_out()
    view = read(made.store)
    assert view.state == "interrupted"
    assert (view.counts["running"], view.counts["waiting"]) == (0, 1)
    assert view.trial(3).state == "waiting"
    with study_lock(made.store):
        view = read(made.store)
        assert view.state == "running" and view.driver is not None and " pid " in view.driver
        assert (view.counts["running"], view.counts["waiting"]) == (1, 0)
    made.close()


def test_a_dead_drivers_name_means_nothing(sample: Sample) -> None:
    sample.store.owner.write_text('{"who": "me@here pid 1", "since": "2026-01-01 00:00"}')
    assert read(sample.store).driver is None
    sample.store.owner.unlink()


def test_a_stopped_trial_counts_as_finished(tmp_path: Path) -> None:
    made = Sample(tmp_path).run(upto=1)
    made.journal.stop(made.hand_out(), {"perplexity": 80.0})
    view = read(made.store)
    made.close()
    assert view.trial(2).state == "pruned" and not view.trial(2).feasible
    assert view.counts["finished"] == 2


def test_a_budget_of_hours(tmp_path: Path) -> None:
    made = Sample(tmp_path, sample_study(budget=Budget(hours=1.0)))
    made.run(upto=1)
    view = read(made.store)
    assert view.counts["planned"] is None and view.state == "interrupted"
    made.journal.note("seconds", 3600.0)
    assert read(made.store).state == "finished"
    made.close()


def test_no_study_no_view(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such study"):
        read(Store(tmp_path, "depth"))


def test_an_empty_study(tmp_path: Path) -> None:
    view = View(sample_study(), tuple(results_of(sample_study(), [])))
    assert (view.state, view.baseline, best(view).trials) == ("new", None, ())
    assert best(view).note == "no trial has finished yet"


def test_one_trial_per_model_and_none_that_changed_nothing(tmp_path: Path) -> None:
    made = Sample(tmp_path)
    made.baseline()
    for lineage in ("a", f"{0:016x}", "a", "b"):  # the second is the untouched model's
        number = made.hand_out()
        metrics = {"perplexity": 20.0 + (lineage in "ab"), "parameters": 134e6 - (lineage in "ab")}
        made.journal.settle(number, record("", number, metrics) | {"lineage": lineage})
    view = read(made.store)
    made.close()
    assert numbers(best(view).trials) == [1, 4]
    assert [one.number for one in view.results if one.on_front] == [0, 1, 2, 3, 4]


def test_a_password_in_an_older_journal_is_not_read_from_it(tmp_path: Path) -> None:
    made = Sample(tmp_path).run(upto=1)
    tables = tomllib.loads(study_toml(made.study))
    tables["storage"]["database"] = "postgresql://me:s3cret@host/name"
    made.journal.note("toml", tomli_w.dumps(tables))
    view = read(made.store)
    made.close()
    assert view.study.storage.database == "postgresql://me@host/name"
    assert "s3cret" not in study_toml(view.study)
