"""A search in phases: what each proposes, whose best it starts from, and tables that are wrong."""

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from search.errors import StudyError
from search.samplers.build import make_sampler
from search.samplers.grid import METRICS, exhausted
from search.samplers.phases import PhasesSampler
from search.samplers.points import PHASE
from search.study.load import parse_study
from search.study.options import PhasesOptions
from search.study.schema import SamplerSpec
from trainables.core.errors import UserError

DIRECTIONS = {"size": "min", "rouge_l": "max"}


def ask(trial: Any) -> None:
    trial.suggest_float("share", 0.0, 1.0, step=0.05)
    trial.suggest_int("least", 100, 900)
    kind = trial.suggest_categorical("kind", ["a", "b"])
    if kind == "b":
        trial.suggest_float("rate", 1e-4, 1e-1, log=True)


def sampler(*phases: dict[str, Any], seed: int = 0) -> PhasesSampler:
    spec = SamplerSpec(name="phases", options={"phases": list(phases)})
    made = make_sampler(spec, seed=seed, existing=0, trials=None, ask=ask, directions=DIRECTIONS)
    assert isinstance(made, PhasesSampler)
    return made


def run(*phases: dict[str, Any], trials: int, fresh: bool = False, seed: int = 0) -> optuna.Study:
    """A search with one worker; `fresh`: every proposal by a sampler of its own."""
    study = optuna.create_study(sampler=sampler(*phases, seed=seed))
    for _ in range(trials):
        if exhausted(study):
            break
        if fresh:
            study.sampler = sampler(*phases, seed=seed)
        trial = study.ask()
        ask(trial)
        share = trial.params["share"]
        trial.set_user_attr(METRICS, {"size": 1 - share, "rouge_l": 0.5 - abs(share - 0.3)})
        trial.set_constraint("quality", 0.1 if share > 0.6 else -0.1)
        study.tell(trial, 1 - share)
    return study


def asked(study: optuna.Study) -> list[dict[str, Any]]:
    return [trial.params for trial in study.trials]


HOW_MUCH = {
    "name": "how much",
    "points": [{"share": s, "least": 400, "kind": "a"} for s in (0.1, 0.25, 0.8)],
}


def test_a_phase_starts_from_the_best_of_an_earlier_one() -> None:
    study = run(
        HOW_MUCH,
        {"best_of": "how much", "by": "rouge_l", "vary": {"least": [200, 300]}},
        {"best_of": 1, "vary": {"least": [500]}},
        {"best_of": ["how much", 2], "by": "rouge_l", "points": [{"kind": "b"}]},
        trials=20,
    )
    points = asked(study)
    assert [one["share"] for one in points[:3]] == [0.1, 0.25, 0.8]
    assert points[3] == {"share": 0.25, "least": 200, "kind": "a"}
    assert points[4] == {"share": 0.25, "least": 300, "kind": "a"}
    assert points[5] == {"share": 0.25, "least": 500, "kind": "a"}  # 0.8 misses the constraint
    assert points[6].pop("rate") and points[6] == {"share": 0.25, "least": 400, "kind": "b"}
    assert len(points) == 7 and exhausted(study)
    tags = [trial.system_attrs[PHASE] for trial in study.trials]
    assert tags == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [2, 0], [3, 0]]


def test_values_are_combined_and_ranges_drawn_from() -> None:
    study = run(
        {"vary": {"share": [0.2, 0.4], "least": [100, 200], "kind": ["a"]}},
        {"vary": {"share": {"low": 0.31, "high": 0.5}, "kind": ["b"]}, "trials": 30},
        trials=50,
    )
    points = asked(study)
    assert [(one["share"], one["least"]) for one in points[:4]] == [
        (0.2, 100),
        (0.2, 200),
        (0.4, 100),
        (0.4, 200),
    ]
    drawn = points[4:]
    assert len(drawn) == 30 and {one["kind"] for one in drawn} == {"b"}
    assert {round(one["share"], 2) for one in drawn} == {0.35, 0.4, 0.45, 0.5}
    assert len({one["least"] for one in drawn}) > 10  # left open


def test_the_last_phase_searches_around_the_best() -> None:
    last = {"best_of": "how much", "around": 0.15}
    study = run(HOW_MUCH, last, trials=30)
    near = asked(study)[3:]
    assert all(0.1 <= round(one["share"], 2) <= 0.4 for one in near)
    assert all(280 <= one["least"] <= 520 for one in near)
    assert len({(one["share"], one["least"]) for one in near}) > 15
    shares = [one["share"] for one in near]
    assert sum(shares[-10:]) > sum(shares[:10])  # TPE has learned what is good
    assert not exhausted(study)


def test_a_proposal_depends_on_seed_and_trials_alone() -> None:
    phases = (
        HOW_MUCH,
        {"vary": {"share": {"low": 0.0, "high": 0.5}}, "trials": 5},
        {"best_of": [1, 2], "by": "rouge_l", "around": 0.3, "trials": 12},
    )
    whole = asked(run(*phases, trials=40))
    assert asked(run(*phases, trials=40, fresh=True)) == whole
    assert asked(run(*phases, trials=40, seed=1)) != whole
    assert len(whole) == 20


def test_points_from_elsewhere_and_failures_take_their_places() -> None:
    study = optuna.create_study(sampler=sampler(HOW_MUCH, {"best_of": 1, "vary": {"least": [170]}}))
    study.sampler = sampler(HOW_MUCH, {"best_of": 1, "vary": {"least": [150]}})
    study.enqueue_trial({"share": 0.9})  # given by hand, before the phases
    for number in range(4):
        if number == 2:
            study.enqueue_trial({"share": 0.55})
        trial = study.ask()
        ask(trial)
        study.tell(trial, state=TrialState.FAIL)
    shares = [one["share"] for one in asked(study)]
    assert shares == [0.9, 0.1, 0.55, 0.8]  # the second one's place went to 0.55
    trial = study.ask()
    ask(trial)
    assert trial.params["least"] == 150  # of no best, as nothing came to a result


# -- tables that are wrong -----------------------------------------------------------------------

STUDY = """
name = "phased"
space = "wanda"
[model]
id = "asset:smollm2-135m"
[data]
dataset = "asset:bbc-news"
task = "language-modelling"
[objectives]
perplexity = "min"
nonzero_parameters = "min"
[budget]
trials = 10
[sampler]
name = "phases"
"""
ONE = '[[sampler.phases]]\nname = "one"\npoints = [{ "wanda.percent" = 10 }]\n'
WRONG = [
    ("none", "", ["sampler.phases: missing"]),
    ("nothing to try", "[[sampler.phases]]\n", ["phases[0]", "one of points, vary and around"]),
    ("two things", ONE + "around = 0.5\n", ["phases[0]", "one of points, vary and around"]),
    ("twice", ONE + ONE, ["two of one name", "one"]),
    (
        "a later one",
        ONE + 'best_of = "two"\n' + ONE.replace('"one"', '"two"'),
        [
            'phases[0].best_of: got "two"; allowed: none, as it is the first',
            "phase 2 (two) does not come before it",
        ],
    ),
    (
        "no such phase",
        ONE + ONE.replace('"one"', '"two"') + 'best_of = "oen"\n',
        ['phases[1].best_of: got "oen"; allowed: phase 1 (one)'],
    ),
    (
        "a number beyond",
        ONE + "[[sampler.phases]]\nbest_of = 7\naround = 0.5\n",
        ["phases[1].best_of: got 7; allowed: phase 1 (one)"],
    ),
    (
        "around nothing",
        "[[sampler.phases]]\naround = 0.5\n",
        ["phases[0]", "around needs best_of"],
    ),
    (
        "an end missing",
        ONE + "[[sampler.phases]]\nbest_of = 1\naround = 0.5\n" + ONE.replace('"one"', '"two"'),
        ["phases[1].trials: missing", "only the last phase has no end"],
    ),
    (
        "ranges without a number",
        '[[sampler.phases]]\nvary = { "wanda.percent" = { low = 0, high = 50 } }\n',
        ["ranges need trials"],
    ),
    (
        "a metric not measured",
        ONE + 'by = "rouge_l"\n',
        ["sampler.phases[0].by: rouge_l is not measured", "perplexity, nonzero_parameters"],
    ),
    ("an unknown key", ONE + "arround = 1\n", ["sampler.phases[0].arround"]),
]


@pytest.mark.parametrize(("name", "phases", "says"), WRONG, ids=[row[0] for row in WRONG])
def test_a_wrong_table_is_one_message(name: str, phases: str, says: list[str]) -> None:
    with pytest.raises(StudyError) as told:
        parse_study(STUDY + phases, "study.toml")
    for text in says:
        assert text in str(told.value)


@pytest.mark.parametrize(
    ("phase", "says"),
    [
        ({"points": [{"shrae": 0.1}]}, r"phases\[0\].points\[0\]: the space has no shrae"),
        (
            {"points": [{"share": 3.0}]},
            r"points\[0\]: share: got 3.0; allowed: a number",
        ),
        ({"vary": {"kind": ["a", "z"]}}, r'phases\[0\].vary: kind: got "z"'),
        (
            {"vary": {"least": {"low": 50, "high": 200}}, "trials": 2},
            r'vary.least: got "from 50 to 200"; allowed: a whole number from 100 to 900',
        ),
        (
            {"vary": {"lest": {"low": 50, "high": 200}}, "trials": 2},
            r"vary: the space has no lest",
        ),
        ({"vary": {"kind": {"low": 0, "high": 1}}, "trials": 2}, r"vary.kind: got"),
    ],
)
def test_what_the_space_does_not_have_is_named(phase: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        sampler(phase)


def test_a_study_with_phases_is_read_back_as_it_was(tmp_path: Path) -> None:
    from search.study.load import compare, study_toml

    text = STUDY + ONE + '[[sampler.phases]]\nbest_of = ["one"]\naround = 0.5\n'
    study = parse_study(text, "study.toml")
    assert compare(study, parse_study(study_toml(study), "again.toml")) == []
    options = PhasesOptions.model_validate_json('{"phases": [{"points": [{"a": 1}]}]}')
    assert options.called(0) == "phase 1"
