"""Samplers: by name, seeded anew on resume, and the exhaustive grid."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import optuna
import pytest
from optuna.distributions import IntDistribution
from optuna.samplers import BaseSampler, NSGAIIISampler, NSGAIISampler, RandomSampler, TPESampler

from search.engine.schedulers import make_scheduler
from search.samplers.bayesian.sampler import BayesianSampler
from search.samplers.build import make_sampler
from search.samplers.grid import exhausted, grid_points
from search.study.options import sampler_problems, watched
from search.study.schema import SamplerSpec, SchedulerSpec
from trainables.core.errors import UserError


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    optuna.logging.set_verbosity(before)


def depth(trial: optuna.Trial) -> object:
    return [trial.suggest_int(f"skip.{block}", 0, 1) for block in range(12)]


def branches(trial: optuna.Trial) -> object:
    kind = trial.suggest_categorical("kind", ["wanda", "magnitude", "none"])
    if kind == "none":
        return kind
    if kind == "magnitude":
        return trial.suggest_float("sparsity", 0.1, 0.4, step=0.1)
    return trial.suggest_int("of", 2, 8, step=2), trial.suggest_int("only", 3, 3)


def sampler(
    name: str, existing: int = 0, trials: int | None = 40, **options: object
) -> BaseSampler:
    spec = SamplerSpec(name=name, options=options)
    return make_sampler(spec, seed=7, existing=existing, trials=trials, ask=depth)


def proposals(chosen: BaseSampler, count: int = 6, objectives: int = 2) -> list[dict[str, int]]:
    study = optuna.create_study(sampler=chosen, directions=["minimize"] * objectives)
    points = []
    for _ in range(count):
        trial = study.ask()
        depth(trial)
        points.append(trial.params)
        removed = sum(trial.params.values())
        trial.set_constraint("enough", 3.0 - removed)
        study.tell(trial, [float(removed), float(trial.number)][:objectives])
    return points


@pytest.mark.parametrize(
    ("name", "trials", "kind"),
    [
        ("auto", 40, BayesianSampler),
        ("auto", None, BayesianSampler),
        ("auto", 5000, BayesianSampler),
        ("bayesian", 40, BayesianSampler),
        ("tpe", 5000, TPESampler),
        ("nsga2", 40, NSGAIISampler),
        ("nsga3", 40, NSGAIIISampler),
        ("random", 40, RandomSampler),
    ],
)
@pytest.mark.parametrize("objectives", [1, 2])
def test_by_name(name: str, trials: int | None, kind: type, objectives: int) -> None:
    chosen = sampler(name, trials=trials)
    assert type(chosen) is kind
    assert len(proposals(chosen, count=25, objectives=objectives)) == 25


@pytest.mark.parametrize("name", ["tpe", "nsga2", "random"])
def test_same_seed_same_points_and_new_ones_on_resume(name: str) -> None:
    first = proposals(sampler(name))
    assert proposals(sampler(name)) == first
    assert proposals(sampler(name, existing=6)) != first


def test_tpe_meets_constraints_more_often_than_chance() -> None:
    points = proposals(sampler("tpe"), count=60)
    feasible = [sum(point.values()) >= 3 for point in points[20:]]
    assert sum(feasible) / len(feasible) > 0.9


def test_options_reach_the_sampler() -> None:
    assert sampler("tpe", n_startup_trials=3)._n_startup_trials == 3  # type: ignore[attr-defined]
    assert sampler("nsga2", population_size=8)._population_size == 8  # type: ignore[attr-defined]
    assert sampler("nsga2", trials=200)._population_size == 20  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (SamplerSpec(name="tpee"), 'did you mean "tpe"?'),
        (SamplerSpec(name="nsga2", options={"population": 9}), 'did you mean "population_size"?'),
        (SamplerSpec(name="nsga2", options={"population_size": 1}), "allowed: 2 or more"),
        (SamplerSpec(name="tpe", options={"group": "yes"}), "allowed: true or false"),
        (SamplerSpec(name="random", options={"n": 1}), "there is nothing to set"),
    ],
)
def test_problems(spec: SamplerSpec, said: str) -> None:
    (problem,) = sampler_problems(spec)
    assert said in str(problem)
    assert str(problem).startswith("sampler.")


def test_grid_holds_every_branch_once() -> None:
    points = grid_points(branches)
    assert points[:4] == [{"kind": "wanda", "of": n, "only": 3} for n in (2, 4, 6, 8)]
    assert points[4:8] == [{"kind": "magnitude", "sparsity": s} for s in (0.1, 0.2, 0.3, 0.4)]
    assert points[8:] == [{"kind": "none"}]


def test_grid_counts_what_the_space_refuses() -> None:
    def half(trial: optuna.Trial) -> object:
        if trial.suggest_int("n", 0, 3) % 2:
            raise ValueError("odd")
        return trial.suggest_categorical("fast", [True, False])

    assert [point.get("fast") for point in grid_points(half)] == [True, False, None] * 2


def test_grid_refuses_what_has_no_end() -> None:
    with pytest.raises(UserError, match=r"ratio is continuous, between 0\.1 and 0\.5"):
        grid_points(lambda trial: trial.suggest_float("ratio", 0.1, 0.5))
    with pytest.raises(UserError, match="more than 10,000 points"):
        grid_points(lambda trial: trial.suggest_int("n", 0, 20_000))


def test_grid_sampler_tries_everything_once_across_a_resume() -> None:
    storage = optuna.storages.InMemoryStorage()
    first = make_sampler(SamplerSpec(name="grid"), seed=1, existing=0, trials=9, ask=branches)
    study = optuna.create_study(storage=storage, study_name="s", sampler=first)
    study.enqueue_trial({"kind": "none"})
    study.enqueue_trial({"kind": "wanda"})  # leaves `of` open
    for number in range(9):
        if number == 5:
            again = make_sampler(
                SamplerSpec(name="grid"), seed=1, existing=5, trials=9, ask=branches
            )
            study = optuna.load_study(storage=storage, study_name="s", sampler=again)
        assert not exhausted(study)
        trial = study.ask()
        branches(trial)
        study.tell(trial, float(number))
    assert len({str(sorted(trial.params.items())) for trial in study.trials}) == 9
    assert exhausted(study)
    branches(study.ask())  # beyond the end: a point again, not an error


def test_a_users_own_sampler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "users_sampler.py").write_text(
        "import optuna\n"
        "def make(*, seed: int, shift: int = 0) -> optuna.samplers.BaseSampler:\n"
        "    return optuna.samplers.RandomSampler(seed=seed + shift)\n"
        "def wrong(*, seed: int) -> int:\n"
        "    return seed\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert isinstance(sampler("users_sampler:make", shift=3), RandomSampler)
    with pytest.raises(UserError, match='did you mean "shift"'):
        sampler("users_sampler:make", shfit=3)
    with pytest.raises(UserError, match="returns an Optuna sampler"):
        sampler("users_sampler:wrong")


def test_points_fit_their_distributions() -> None:
    study = optuna.create_study(sampler=sampler("grid"))
    assert not exhausted(study)
    assert not exhausted(optuna.create_study(sampler=sampler("random")))
    trial = study.ask({f"skip.{block}": IntDistribution(0, 1) for block in range(12)})
    assert set(trial.params.values()) <= {0, 1}


def test_what_a_scheduler_watches() -> None:
    assert watched(SchedulerSpec(), {"loss": "min"}) is None
    assert watched(SchedulerSpec(name="asha"), {"accuracy": "max"}) == ("accuracy", "max")
    spec = SchedulerSpec(name="median", metric="loss", mode="min")
    assert watched(spec, {"accuracy": "max", "size": "min"}) == ("loss", "min")
    assert make_scheduler(SchedulerSpec(), {"loss": "min"}) is None


@dataclass(frozen=True)
class Known:
    """What a scheduler knows of a trial."""

    trial_id: str


@pytest.mark.parametrize("name", ["asha", "median"])
def test_a_scheduler_bears_trials_without_its_metric(name: str) -> None:
    options = {"min_samples_required": 1} if name == "median" else {"reduction_factor": 2.0}
    made = make_scheduler(SchedulerSpec(name=name, options=options), {"accuracy": "max"})
    assert made is not None
    failed, good, poor = trials = [Known(name) for name in "abc"]
    for trial in trials:
        made.on_trial_add(None, trial)
    made.on_trial_complete(None, failed, {"training_iteration": 5, "done": True})
    told = [
        made.on_trial_result(None, trial, {"training_iteration": step, "accuracy": accuracy})
        for trial, step, accuracy in ((good, 1, 0.9), (good, 2, 0.9), (poor, 1, 0.1))
    ]
    assert told == ["CONTINUE", "CONTINUE", "STOP"]
