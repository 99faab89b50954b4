"""The omission spaces: sets within bounds, the points they start from, the stages they mean."""

from typing import Any

import optuna
import pytest
from optuna.trial import FixedTrial

from search.errors import StudyError
from search.study.schema import SpaceSpec
from search.study.space import load_space
from search.study.starting_points import read_point
from spaces import sets
from spaces.omission import OmissionSpace
from spaces.omission_wanda import OmissionWandaSpace
from spaces.wanda import WandaSpace
from trainables.omission.method import Omission
from trainables.stage import Facts
from trainables.wanda import Wanda, WandaSequential

# Block 4 matters least, then 2, 5, 1, 6, 3; 0 and 7 would come first, but are the ends.
INFLUENCE = [0.0, 0.4, 0.2, 0.6, 0.1, 0.3, 0.5, 0.0]
FACTS = Facts(blocks=8, stacks=(8,), survey={"influence": INFLUENCE})
RANKED = [4, 2, 5, 1, 6, 3]


def point(count: int, *members: int, blocks: int = 8) -> dict[str, Any]:
    each = {f"omission.skip.{n:02d}": int(n in members) for n in range(blocks)}
    return {"omission.skip.count": count, **each}


def skipped(params: dict[str, Any], **ranges: Any) -> tuple[int, ...]:
    (stage,) = OmissionSpace(**ranges).stages(FixedTrial(params), FACTS)
    assert isinstance(stage, Omission)
    return stage.skip


# -- sets ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "chosen"),
    [
        (point(0, 1, 2, 3), ()),
        (point(3, 5, 3), (3, 5)),
        (point(2, 1, 2, 3, 4), (2, 4)),
        (point(3, 1, 2, 3, 4), (1, 2, 4)),
        (point(6), ()),
    ],
)
def test_a_set_is_the_cheapest_of_the_candidates(
    params: dict[str, Any], chosen: tuple[int, ...]
) -> None:
    assert skipped(params) == chosen


def test_of_equally_cheap_members_the_first_are_taken() -> None:
    params = {"s.count": 2, "s.01": 1, "s.02": 1, "s.03": 1}
    assert sets.suggest(FixedTrial(params), "s", [1, 2, 3], dict.fromkeys(range(4), 0.5), 3) == (
        1,
        2,
    )


@pytest.mark.parametrize(
    ("ranges", "facts", "free"),
    [
        ({}, FACTS, [1, 2, 3, 4, 5, 6]),
        ({"keep_first": 0, "keep_last": 3}, FACTS, [0, 1, 2, 3, 4]),
        ({}, Facts(blocks=8, fixed=(0, 4), survey=FACTS.survey), [1, 2, 3, 5, 6]),
    ],
)
def test_ends_and_fixed_blocks_are_never_offered(
    ranges: dict[str, Any], facts: Facts, free: list[int]
) -> None:
    asked: list[str] = []

    class Asked:
        def suggest_int(self, name: str, low: int, high: int) -> int:
            asked.append(name)
            return high

    (stage,) = OmissionSpace(max_skip=9, **ranges).stages(Asked(), facts)
    assert isinstance(stage, Omission)
    assert asked == ["omission.skip.count", *(f"omission.skip.{n:02d}" for n in free)]
    assert list(stage.skip) == free


@pytest.mark.parametrize("most", [0, 1, 3])
def test_no_proposal_skips_more_than_allowed(most: int) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    sizes = set()
    for _ in range(60):
        (stage,) = OmissionSpace(max_skip=most).stages(study.ask(), FACTS)
        assert isinstance(stage, Omission)
        sizes.add(len(stage.skip))
    assert sizes == set(range(most + 1))


def test_a_trial_replays_from_its_parameters() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    for _ in range(20):
        trial = study.ask()
        asked = OmissionWandaSpace().stages(trial, FACTS)
        assert OmissionWandaSpace().stages(FixedTrial(trial.params), FACTS) == asked


# -- where it starts -----------------------------------------------------------------------------


def test_it_starts_from_the_least_influential_blocks() -> None:
    found = [start["omission.skip"] for start in OmissionSpace(max_skip=4).starts(FACTS)]
    assert found == [sorted(RANKED[:size]) for size in (1, 2, 4)]


@pytest.mark.parametrize(("most", "sizes"), [(0, []), (1, [1]), (5, [1, 2, 4]), (64, [1, 2, 4])])
def test_starts_stay_within_the_range(most: int, sizes: list[int]) -> None:
    found = OmissionSpace(max_skip=most).starts(FACTS)
    assert [len(start["omission.skip"]) for start in found] == sizes


def test_starts_are_points_the_spaces_accept() -> None:
    ranges: dict[str, Any] = {"max_skip": 4, "keep_first": 2, "keep_last": 2}
    space = OmissionSpace(**ranges)
    for start in space.starts(FACTS):
        params = read_point(start, lambda trial: space.stages(trial, FACTS), "starts")
        assert skipped(params, **ranges) == tuple(start["omission.skip"])
    chain = OmissionWandaSpace(low=10, **ranges)
    for start in chain.starts(FACTS):
        params = read_point(start, lambda trial: chain.stages(trial, FACTS), "starts")
        stages = chain.stages(FixedTrial(params), FACTS)
        assert stages == [Omission(skip=tuple(start["omission.skip"])), Wanda(0.1)]


# -- the chain, and Wanda alone ------------------------------------------------------------------


def test_the_chain_is_omission_then_wanda() -> None:
    params = point(2, 4, 2) | {"wanda.percent": 30}
    stages = OmissionWandaSpace().stages(FixedTrial(params), FACTS)
    assert stages == [Omission(skip=(2, 4)), Wanda(0.3)]


@pytest.mark.parametrize("percent", [0, 5, 35, 60])
def test_percents_are_exact_shares(percent: int) -> None:
    (stage,) = WandaSpace().stages(FixedTrial({"wanda.percent": percent}), FACTS)
    assert stage == Wanda(percent / 100)


@pytest.mark.parametrize("space", [WandaSpace, OmissionWandaSpace])
def test_wanda_may_go_block_by_block_as_published(space: type[WandaSpace]) -> None:
    old = FixedTrial(point(1, 4) | {"wanda.percent": 30})  # of a study that did not ask yet
    assert space().stages(old, FACTS)[-1] == Wanda(0.3)
    assert space(sequential=(True,)).stages(old, FACTS)[-1] == WandaSequential(0.3)
    both = space(sequential=(False, True))
    for value, method in ((False, Wanda), (True, WandaSequential)):
        asked = FixedTrial(point(1, 4) | {"wanda.percent": 30, "wanda.sequential": value})
        assert type(both.stages(asked, FACTS)[-1]) is method


def test_a_study_overrides_the_ranges() -> None:
    space = load_space(
        SpaceSpec.model_validate({"name": "omission_wanda", "max_skip": 1, "high": 20})
    )
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=2))
    for _ in range(20):
        trial = study.ask()
        cut, zeros = space.stages(trial, FACTS)
        assert isinstance(cut, Omission) and isinstance(zeros, Wanda)
        assert len(cut.skip) <= 1
        assert zeros.sparsity in (0.0, 0.1, 0.2)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"max_skips": 2}, 'did you mean "max_skip"'),
        ({"max_skip": -1}, "max_skip"),
        ({"high": 100}, "high"),
        ({"step": 0}, "step"),
        ({"keep_first": 0.5}, "keep_first"),
    ],
)
def test_wrong_ranges_are_refused(override: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError) as error:
        load_space(SpaceSpec.model_validate({"name": "omission_wanda", **override}))
    assert message in str(error.value)
