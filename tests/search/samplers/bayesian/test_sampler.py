"""The default sampler: it learns, keeps to constraints, and bears every kind of space."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from search.samplers.bayesian.design import design, lacking
from search.samplers.bayesian.features import Columns, describe
from search.samplers.bayesian.gain import gains, normals
from search.samplers.bayesian.sampler import BayesianSampler
from search.samplers.bayesian.surrogate import fit
from search.samplers.points import Walker, key_of
from search.study.stand_in import default
from spaces import sets
from tests.search.samplers.test_steps import ask as small
from tests.search.samplers.test_steps import walk
from trainables.wanda import Wanda


@pytest.fixture(autouse=True)
def quiet() -> Any:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(before)


# -- its parts -------------------------------------------------------------------------------------


def test_a_point_is_told_by_its_members_and_its_settings() -> None:
    told = describe(walk(**{"skip.count": 2, "skip.02": 1, "skip.04": 1, "zeros": 20}))
    mean = (1 + 2 + 3 + 4) / 4  # of what the space thinks that its units cost
    assert told == {"skip#": 1.0, "skip:2": 2 / mean, "skip:4": 4 / mean, "zeros": 1.0}
    cut = walk(**{"skip.count": 1, "skip.02": 1, "skip.04": 1, "zeros": 0})
    assert describe(cut) == {"skip#": 0.5, "skip:2": 2 / mean, "zeros": 0.0}


def test_settings_keep_their_order_and_choices_their_names() -> None:
    def asked(trial: Any) -> object:
        trial.suggest_float("lr", 1e-4, 1e-2, log=True)
        trial.suggest_categorical("bits", [2, 4, 8])
        return trial.suggest_categorical("how", ["a", "b"])

    point = Walker(asked).walk({"lr": 1e-3, "bits": 4, "how": "b"}, lambda _, one: default(one))
    assert point is not None
    assert describe(point) == pytest.approx({"lr": 0.5, "bits": 0.5, "bits=4": 0.5, "how='b'": 1.0})


@pytest.mark.parametrize(
    ("price", "weights"),
    [((2.0, 2.0, 5.0), [2 / 3, 2 / 3, 5 / 3]), ((-1.0, 0.0, -7.0), [1.0, 1.5, 0.5])],
)
def test_members_weigh_what_they_are_thought_to_cost(
    price: tuple[float, ...], weights: list[float]
) -> None:
    def asked(trial: Any) -> object:
        return sets.suggest(trial, "s", range(3), dict(enumerate(price)), 3)

    point = Walker(asked).walk({f"s.{n:02d}": 1 for n in range(3)} | {"s.count": 3}, draw_lowest)
    assert point is not None
    assert [describe(point)[f"s:{n}"] for n in range(3)] == pytest.approx(weights)


def draw_lowest(_: str, asked: Any) -> Any:
    return default(asked)


def test_columns_leave_out_what_never_varies() -> None:
    columns = Columns([{"a": 1.0, "b": 2.0, "s:1": 3.0}, {"a": 0.0, "b": 2.0}])
    found = columns.table([{"a": 0.5, "b": 7.0, "s:1": 3.0, "new": 4.0}])
    assert found.members.tolist() == [[1.0]] and found.others.tolist() == [[0.5]]
    assert found.weights.tolist() == [[3.0]]


def test_what_is_counted_is_known_exactly() -> None:
    """As parameters are: a product of how much is left of two things."""
    points = [{"n#": n, "zeros": z} for n in (0.0, 0.5, 1.0) for z in (0.0, 0.2, 0.6)]
    size = [1e8 * (5 + (10 - 8 * one["n#"]) * (1 - one["zeros"])) for one in points]
    columns = Columns(points)
    models = fit(columns.table(points), np.array(size)[:, None])
    [told] = models.at(columns.table([{"n#": 0.25, "zeros": 1.0}, {"n#": 0.75, "zeros": 0.4}]))
    assert told.mean == pytest.approx([1e8 * 5, 1e8 * (5 + 4 * 0.6)], rel=1e-3)
    assert told.deviation.max() < 1e6


def test_the_first_points_show_every_setting_at_three_values() -> None:
    walker, seen = Walker(small), [walk(**{"skip.count": 2, "skip.01": 1, "skip.02": 1})]
    while lacking(seen):
        params = design(walker, {one.identity for one in seen})
        assert params is not None
        seen.append(walk(**params))
    assert {one.params["zeros"] for one in seen} == {0, 10, 20}
    assert [one.members["skip"] for one in seen[1:]] == [[1], [], []]  # the cheapest


def test_a_surrogate_learns_a_sum_and_its_own_doubt() -> None:
    rng = np.random.default_rng(0)
    costs = {n: 0.1 * n for n in range(1, 9)}
    points = [
        {f"s:{n}": 1.0 for n in costs if rng.random() < 0.4} | {"zeros": float(rng.integers(6))}
        for _ in range(60)
    ]
    points = [one | {"s#": (len(one) - 1) / 8, "zeros": one["zeros"] / 5} for one in points]
    scores = np.array([
        20 * math.exp(sum(costs[n] for n in costs if f"s:{n}" in one) + 0.1 * one["zeros"])
        for one in points
    ])  # fmt: skip
    columns = Columns(points)
    models = fit(columns.table(points[:45]), scores[:45, None])
    [told] = models.at(columns.table(points[45:]))
    assert told.log
    assert np.corrcoef(told.mean, np.log(scores[45:]))[0, 1] > 0.99
    [known] = models.at(columns.table(points[:45]))
    assert known.deviation.max() < told.deviation.min()


def test_what_a_point_adds_to_a_front() -> None:
    front, corner = np.array([[1.0, 3.0], [2.0, 1.0]]), np.array([4.0, 4.0])
    drawn = np.array([[[1.5, 2.0]], [[0.0, 0.0]], [[2.5, 2.5]], [[5.0, 0.0]]])
    assert gains(drawn, front, corner)[:, 0].tolist() == [0.5, 16.0 - 7.0, 0.0, 0.0]
    single = gains(drawn[:, :, :1], front[:, :1], corner[:1])
    assert single[:, 0].tolist() == [0.0, 1.0, 0.0, 0.0]
    box = np.concatenate([drawn, np.zeros((4, 1, 1))], axis=2)
    flat = np.concatenate([front, np.zeros((2, 1))], axis=1)
    found = gains(box, flat, np.array([4.0, 4.0, 1.0]))[:, 0]
    assert found == pytest.approx([0.5, 9.0, 0.0, 0.0], abs=1.3)  # by spots
    assert abs(normals(3, 16).mean()) < 0.1 and abs(normals(3, 16).std() - 1) < 0.25


# -- the sampler -----------------------------------------------------------------------------------

Space = Callable[[Any], Any]


def search(
    space: Space, score: Callable[[dict[str, Any]], Any], count: int, ways: list[str], seed: int = 0
) -> list[optuna.trial.FrozenTrial]:
    """Trials of one worker; `score` returns values and how much a constraint is missed, or None."""
    study = optuna.create_study(sampler=BayesianSampler(space, seed), directions=ways)
    for _ in range(count):
        trial = study.ask()
        space(trial)
        told = score(trial.params)
        if told is None:
            study.tell(trial, state=TrialState.FAIL)
            continue
        trial.set_constraint("limit", told[1])
        study.tell(trial, told[0])
    return study.get_trials()


def mixed(trial: Any) -> object:
    """A space without stages, whose branches ask for other things."""
    kind = trial.suggest_categorical("kind", ["wanda", "none", "low-rank"])
    if kind == "wanda":
        return trial.suggest_int("percent", 0, 60, step=5)
    if kind == "low-rank":
        return trial.suggest_float("rank", 0.0, 1.0), trial.suggest_float(
            "lr", 1e-5, 1e-1, log=True
        )
    return None


def fits(params: dict[str, Any]) -> tuple[list[float], float]:
    value = 5.0
    if params["kind"] == "wanda":
        value = 1 + abs(params["percent"] - 35) / 30
    elif params["kind"] == "low-rank":
        value = abs(params["rank"] - 0.7) + abs(math.log10(params["lr"]) + 3) / 4
    return [value], 0.0


def test_one_objective_over_branches_with_continuous_parameters() -> None:
    best = [
        min(t.values[0] for t in search(mixed, fits, 40, ["minimize"], seed)) for seed in range(2)
    ]
    assert max(best) < 0.3 and min(best) < 0.1  # of a branch, 1 is the best of another


def test_it_repeats_nothing_and_the_same_seed_is_the_same_search() -> None:
    def score(params: dict[str, Any]) -> Any:
        blocks = walk(**params).stages[0]["fields"]["blocks"]  # type: ignore[index]
        return [float(sum(blocks)), float(-len(blocks) - params["zeros"])], 0.0

    found = search(small, score, 25, ["minimize", "maximize"])
    assert len({walk(**one.params).key for one in found}) == 25
    again = search(small, score, 25, ["minimize", "maximize"])
    assert [one.params for one in again] == [one.params for one in found]


def numbers(trial: Any) -> object:
    return [trial.suggest_int(f"n.{n}", 0, 9) for n in range(4)]


def test_constraints_are_found_and_kept() -> None:
    def score(params: dict[str, int]) -> Any:
        total = sum(params.values())
        return [float(total)], (30 - total) / 30  # hardly any point at random is feasible

    found = search(numbers, score, 40, ["minimize"])
    assert min(one.values[0] for one in found if one.constraints["limit"] <= 0) <= 31
    assert sum(one.constraints["limit"] <= 0.1 for one in found[15:]) > 15


def test_where_trials_fail_it_goes_elsewhere() -> None:
    def score(params: dict[str, int]) -> Any:
        return None if params["n.0"] > 4 else ([float(-sum(params.values()))], 0.0)

    found = search(numbers, score, 25, ["minimize"])
    assert min(one.values[0] for one in found if one.state == TrialState.COMPLETE) == -31.0


def test_it_looks_up_to_the_limit_and_not_only_where_it_was() -> None:
    """What a limit allows counts, also where nothing that was measured comes near it."""
    size, limit = 30, 25.0

    def score(params: dict[str, int]) -> Any:
        total = sum(params.values())
        return [float(total), float(size - total)], (total - limit) / size

    found = search(numbers, score, 14, ["minimize", "minimize"])
    assert max(one.values[0] for one in found if one.values[0] <= limit) >= limit - 2


def test_three_objectives_and_trials_that_run() -> None:
    study = optuna.create_study(sampler=BayesianSampler(numbers, 1), directions=["minimize"] * 3)
    running: list[optuna.Trial] = []
    asked = []
    for _ in range(30):
        running.append(study.ask())
        numbers(running[-1])
        asked.append(tuple(running[-1].params.values()))
        if len(running) == 4:  # three others run when the next is asked for
            trial = running.pop(0)
            a, b, c, d = trial.params.values()
            study.tell(trial, [float(a + d), float(9 - a + b), float(c)])
    assert len(set(asked)) == 30
    assert np.mean([sum(one[1:3]) for one in asked[20:]]) < np.mean(
        [sum(o[1:3]) for o in asked[:8]]
    )


def test_an_empty_space_is_proposed_as_it_is() -> None:
    study = optuna.create_study(sampler=BayesianSampler(lambda trial: [], 0))
    for number in range(6):
        study.tell(study.ask(), float(number))
    assert Walker(lambda trial: []).walk({}, lambda _, asked: default(asked)) is not None


@pytest.mark.parametrize("seed", range(5))
def test_the_untouched_model_is_known_before_anything_is_tried(seed: int) -> None:
    """However much better it is than all that was tried."""

    def asked(trial: Any) -> list[Wanda]:
        return [Wanda(trial.suggest_int("percent", 0, 50, step=5) / 100)]

    study = optuna.create_study(sampler=BayesianSampler(asked, seed))
    for percent in (10, 20, 30, 40, 50):
        study.enqueue_trial({"percent": percent})
        trial = study.ask()
        asked(trial)
        study.tell(trial, float(percent))
    assert key_of(asked(study.ask())) != key_of([])
