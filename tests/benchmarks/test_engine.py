"""The engine's benchmark: both sides get the same points, and what is not equal is named."""

from typing import Any

import pytest

from benchmarks import engine
from search.journal.journal import Journal
from search.study.load import parse_study
from search.study.space import load_space
from tests.support.journals import BASELINE, memory, record
from trainables.stage import Facts


def tried(count: int) -> list[dict[str, Any]]:
    """The points that a launch of the study hands out, up to its budget."""
    from optuna.samplers import RandomSampler

    study = parse_study(engine.study_file(count, 256), "engine.toml")
    journal = Journal(memory(), study.name, study.objectives)
    journal.settle(0, record(journal.hand_out(None).uid, 0, BASELINE))
    journal.begin(RandomSampler(seed=0), study.first)

    space, facts = load_space(study.space), Facts(30, survey={"influence": list(range(30))})
    wanted, given = study.budget.trials, list[dict[str, Any]]()
    assert wanted is not None
    while len(given) < wanted:
        handout = journal.hand_out(lambda trial: space.stages(trial, facts))
        assert handout is not None
        given.append(handout.params)
    return given


@pytest.mark.parametrize("count", [1, engine.MOST])
def test_a_launch_tries_the_points_that_the_plain_side_gets(count: int) -> None:
    wanted = engine.points(count)
    assert len(wanted) == count == len({engine._key(point) for point in wanted})
    assert [engine._key(point) for point in tried(count)] == list(map(engine._key, wanted))


def test_what_is_not_equal_is_named() -> None:
    one, two = (engine._key(point) for point in engine.points(2))
    found = {one: {(1.0, 2.0)}, two: {(3.0, 4.0)}}
    assert engine.differences(found, dict(found), 2) == []
    assert "plain [(1.0, 2.0)], ours []" in engine.differences(found, {two: {(3.0, 4.0)}}, 2)[0]
    [told] = engine.differences(found, found | {two: {(3.0, 4.5)}}, 2)
    assert "omission.skip.20 1" in told and "(3.0, 4.5)" in told
    twice = {one: {(1.0, 2.0), (1.5, 2.0)}, two: {(3.0, 4.0)}}
    assert len(engine.differences(twice, dict(twice), 2)) == 1
    other = (("wanda.percent", 10),)
    [told] = engine.differences(found, found | {other: {(1.0, 1.0)}}, 2)
    assert "wanda.percent 10, which nobody asked for" in told
