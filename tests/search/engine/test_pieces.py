"""Pieces of work: each done once, round after round, by whoever does them."""

import json
from collections.abc import Generator, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RayActorError

from search.engine.dispatch import Nobody
from search.engine.pieces import Piece, Pieces, Program, do_here, finished, together
from search.engine.searcher import WorkSearcher
from search.engine.trouble import TRIES
from trainables.core.errors import PlanError, UserError


class Adder:
    """A worker that adds."""

    def __init__(self, start: int) -> None:
        self.start = start

    def do(self, method: str, arguments: dict[str, int]) -> Generator[Any, None, dict[str, int]]:
        yield from ()
        if arguments["value"] < 0:
            raise PlanError("value", got=arguments["value"], allowed="0 or more")
        return {method: self.start + arguments["value"]}


def pieces(folder: Path, *values: int) -> list[Piece]:
    return [Piece(folder / f"{one}.json", "sum", {"value": one}) for one in values]


def rounds(folder: Path, found: list[int], *rounds: Sequence[int]) -> Program[None]:
    """Asks for one round after the other."""
    for values in rounds:
        records = yield from finished(pieces(folder, *values))
        found += [one["sum"] for one in records]


def test_each_is_done_once_and_only_what_is_missing(tmp_path: Path) -> None:
    found: list[int] = []
    do_here(Pieces(tmp_path, rounds(tmp_path, found, (0, 1), (), (2,))), partial(Adder, 10))
    assert found == [10, 11, 12]
    do_here(Pieces(tmp_path, rounds(tmp_path, found, (0, 1), (2, 3))), partial(Adder, 90))
    assert found[3:] == [10, 11, 12, 93]
    work = Pieces(tmp_path, rounds(tmp_path, found, (3,)))
    do_here(work, lambda: pytest.fail("nothing is left to do"))
    assert work.over and found[7:] == [93]


def test_who_keeps_the_ledger_hears_of_every_end_once_its_consequences_are_there(
    tmp_path: Path,
) -> None:
    found: list[int] = []
    heard: list[int] = []
    program = rounds(tmp_path, found, (0, 1), (2,))
    work = Pieces(tmp_path, program, on_end=lambda: heard.append(len(found)))
    do_here(work, partial(Adder, 10))
    assert heard == [0, 2, 3]


def test_the_failed_are_named_and_the_others_kept(tmp_path: Path) -> None:
    work = Pieces(tmp_path, rounds(tmp_path, [], (0,), (1, -1, 2)))
    with pytest.raises(UserError, match=r"1 of 3 items failed:\n  -1: PlanError: value: got -1; a"):
        do_here(work, partial(Adder, 10))
    assert [one.done for one in pieces(tmp_path, 0, 1, -1, 2)] == [True, True, False, True]


def test_what_all_depends_on_says_itself_why_it_cannot_be_done(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"^value: got -1; allowed: 0 or more"):
        do_here(Pieces(tmp_path, rounds(tmp_path, [], (-1,))), partial(Adder, 10))
    with pytest.raises(ValueError, match="invalid literal"):
        do_here(Pieces(tmp_path, rounds(tmp_path, [], (1,))), partial(int, "many"))


def test_programs_side_by_side_share_their_rounds(tmp_path: Path) -> None:
    seen: list[list[int]] = []

    def program(*rounds: Sequence[int]) -> Program[list[int]]:
        found: list[int] = []
        for values in rounds:
            failed = yield pieces(tmp_path, *values)
            found += [one for one in values if tmp_path / f"{one}.json" not in failed]
        return found

    def both() -> Program[None]:
        parts = {"a": program((0,), (1, -1)), "b": program((2,), (), (3,)), "c": program()}
        running = together(parts)
        asked = next(running)
        while True:
            seen.append([one.arguments["value"] for one in asked])
            failed = yield asked
            try:
                asked = running.send(failed)
            except StopIteration as end:
                assert end.value == {"a": [0, 1], "b": [2, 3], "c": []}
                return

    do_here(Pieces(tmp_path, both()), partial(Adder, 10))
    assert seen == [[0, 2], [1, -1], [3]]


# -- on Tune's workers -----------------------------------------------------------------------------


class Heard(Nobody):
    """What it was told."""

    def __init__(self) -> None:
        self.said: list[str] = []
        super().__init__(self.said.append)


@pytest.fixture
def searcher(tmp_path: Path) -> Iterator[WorkSearcher]:
    """Two rounds, for two workers."""
    program = rounds(tmp_path, [], (0,), (1, 2, 3), (4,))
    room = SimpleNamespace(
        slots=lambda: 2,
        works=lambda node: None,
        strike=lambda node: None,
        left=lambda: True,
        waiting=lambda: 0,
    )
    yield WorkSearcher(Pieces(tmp_path, program, Heard(), room))


def handed(searcher: WorkSearcher, name: str) -> Any:
    config = searcher.suggest(name)
    assert isinstance(config, dict), searcher.plan.error
    return config["given"]


def done(searcher: WorkSearcher, name: str, given: Any, **changes: Any) -> None:
    """A worker's word, after it wrote the record."""
    plan: Any = searcher.plan
    record = {"state": "complete", "reason": None, "sum": given.params["arguments"]["value"]}
    record |= {"metrics": {}} | changes
    if record["state"] == "complete":
        (plan.root / f"{given.uid}.json").write_text(json.dumps(record))
    searcher.on_trial_complete(name, {"record": json.dumps(record), "done": True})


def begun(searcher: WorkSearcher) -> None:
    first = handed(searcher, "first")
    assert (first.number, first.params) == (0, {"method": "sum", "arguments": {"value": 0}})
    assert handed(searcher, "warming") is None
    searcher.on_trial_complete("warming", {"done": True})
    done(searcher, "first", first)


def test_a_round_begins_when_the_one_before_has_ended(searcher: WorkSearcher) -> None:
    begun(searcher)
    one, two = handed(searcher, "one"), handed(searcher, "two")
    assert searcher.suggest("three") is None, "two workers"
    done(searcher, "one", one)
    three = handed(searcher, "three")
    done(searcher, "three", three)
    assert searcher.suggest("four") is None, "the second may come back"
    done(searcher, "two", two)
    four = handed(searcher, "four")
    assert [given.params["arguments"]["value"] for given in (one, two, three, four)] == [1, 2, 3, 4]
    done(searcher, "four", four)
    plan: Any = searcher.plan
    assert searcher.suggest("five") == searcher.FINISHED and plan.over
    assert [text.partition(": ")[2] for text in plan.watcher.said] == [
        "1 of 3",
        "2 of 3",
        "3 of 3",
        "1 of 1",
    ]


def test_what_a_dead_worker_had_is_done_by_another_a_few_times(searcher: WorkSearcher) -> None:
    begun(searcher)
    other = handed(searcher, "other")
    for _ in range(TRIES):
        given = handed(searcher, "one")
        assert (given.number, given.params["arguments"]) == (2, {"value": 2})
        searcher.started("one")
        searcher.died("one", RayActorError(error_msg="Worker exit detail: Killed by somebody."))
    done(searcher, "other", other)
    done(searcher, "third", handed(searcher, "third"))
    said = str(searcher.plan.error)
    assert "1 of 3 items failed:\n  2: its workers died" in said and "Killed by somebody" in said
    assert searcher.suggest("next") == searcher.FINISHED


def test_what_a_worker_is_stopped_in_is_still_to_do(searcher: WorkSearcher) -> None:
    begun(searcher)
    given = handed(searcher, "one")
    searcher.on_trial_complete("one", {"done": True})  # without a word
    assert handed(searcher, "again") == given


def test_the_first_one_ends_the_study_with_its_reason(searcher: WorkSearcher) -> None:
    done(searcher, "first", handed(searcher, "first"), state="fail", reason="no such column")
    assert "no trial can run: no such column" in str(searcher.plan.error)
    assert searcher.suggest("next") == searcher.FINISHED


def test_a_record_that_the_driver_does_not_find_is_written_by_it(searcher: WorkSearcher) -> None:
    begun(searcher)
    plan: Any = searcher.plan
    given = handed(searcher, "one")
    record = {"state": "complete", "reason": None, "sum": 7, "metrics": {}, "unsaved": "disk full"}
    searcher.on_trial_complete("one", {"record": json.dumps(record), "done": True})
    assert json.loads((plan.root / f"{given.uid}.json").read_text())["sum"] == 7
