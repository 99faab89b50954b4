"""Sharing rows out: contexts stay together, rows that hold nothing are counted."""

import logging
from pathlib import Path
from typing import Any, get_args

import datasets
import pytest

from tests.support.toys import bytes_tokenizer, jsonl
from trainables.bench.data.roles import Data, load_data
from trainables.bench.data.split import Taken
from trainables.core.errors import DataError
from trainables.core.spec import DataSpec, Role

ROLES: tuple[Role, ...] = get_args(Role)
FEW = {"calibration": 3, "train": 8, "search": 5, "held_out": 4}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def loaded(path: str, task: str, seed: int = 0, taken: Taken | None = None, **fields: Any) -> Data:
    given = {"dataset": path, "task": task, "items": FEW, "max_length": 60, **fields}
    return load_data(DataSpec.model_validate(given), bytes_tokenizer(), seed, taken=taken)


def roles_of(data: Data, context: Any) -> list[set[Any]]:
    return [{context(item) for item in data.items(role)} for role in ROLES]


def apart(sets: list[set[Any]]) -> bool:
    return sum(map(len, sets)) == len(set().union(*sets))


SHARED: dict[str, tuple[str, Any, Any]] = {
    "SQuAD": (
        "generation",
        lambda i: {
            "context": f"paragraph {i // 5}",
            "question": f"what is {i}?",
            "answers": {"text": [f"thing {i}"]},
        },
        lambda item: item.source.split("context: ")[1],
    ),
    "BoolQ": (
        "multiple-choice",
        lambda i: {"passage": f"Cats {i // 5}.", "question": f"is it {i}", "answer": i % 2 == 0},
        lambda item: item.prompt.split("\n")[0],
    ),
    "PIQA": (
        "multiple-choice",
        lambda i: {"goal": f"Open {i // 5}", "sol1": f"Push {i}", "sol2": f"Pull {i}", "label": 0},
        lambda item: item.prompt,
    ),
    "MNLI": (
        "classification",
        lambda i: {"premise": f"It rains {i // 5}", "hypothesis": f"so {i}", "label": i % 3},
        lambda item: item.text,
    ),
    "QNLI": (
        "classification",
        lambda i: {"question": f"what is {i}", "sentence": f"all of {i // 5}", "label": i % 2},
        lambda item: item.second,
    ),
}


@pytest.mark.parametrize("name", SHARED)
def test_rows_that_share_a_context_stay_in_one_role(tmp_path: Path, name: str) -> None:
    task, row, context = SHARED[name]
    data = loaded(jsonl(tmp_path / "o.jsonl", map(row, range(100))), task)
    assert {role: len(data.items(role)) for role in ROLES} == FEW
    assert apart(roles_of(data, context))
    assert data.description["rows alike in"] is not None


def test_a_context_in_two_splits_stays_in_one_role(tmp_path: Path) -> None:
    row = SHARED["SQuAD"][1]
    for name in ("train", "test"):
        rows = [row(i) | {"question": f"{name} {i}"} for i in range(100)]
        jsonl(tmp_path / f"{name}.jsonl", rows)
    data = loaded(str(tmp_path), "generation", splits={"held_out": "test"})
    assert apart(roles_of(data, SHARED["SQuAD"][2]))


def test_what_is_held_out_of_contexts_depends_on_its_own_count(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "o.jsonl", map(SHARED["SQuAD"][1], range(100)))
    few = loaded(path, "generation").items("held_out")
    more = loaded(path, "generation", items={**FEW, "search": 20, "held_out": 6})
    assert set(few) < set(more.items("held_out"))


def test_an_instruction_is_no_context(tmp_path: Path) -> None:
    rows = [{"text": "Is this good?", "text_b": f"film {i}", "label": i % 2} for i in range(40)]
    data = loaded(jsonl(tmp_path / "o.jsonl", rows), "classification")
    assert data.description["rows alike in"] is None


def test_the_study_may_name_what_rows_share(tmp_path: Path) -> None:
    rows = [{"text": f"film {i}", "author": f"a{i // 5}", "label": i % 2} for i in range(100)]
    path = jsonl(tmp_path / "o.jsonl", rows)
    data = loaded(path, "classification", group="author")
    assert apart(roles_of(data, lambda item: int(item.text.split()[1]) // 5))
    assert loaded(path, "classification").description["rows alike in"] is None
    with pytest.raises(DataError, match=r'no such column \(did you mean "author"\?\)'):
        loaded(path, "classification", group="autor")
    shared = jsonl(tmp_path / "s.jsonl", map(SHARED["MNLI"][1], range(100)))
    assert loaded(shared, "classification", group="none").description["rows alike in"] is None


def test_too_few_contexts_are_told_with_their_column(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "o.jsonl", map(SHARED["SQuAD"][1], range(100)))
    with pytest.raises(DataError, match='Rows alike in "context" stay in one role'):
        loaded(path, "generation", items={**FEW, "held_out": 50, "search": 60})


def test_two_tasks_of_one_data_set_share_no_row(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "o.jsonl", map(SHARED["PIQA"][1], range(200)))
    taken = Taken()
    first = loaded(path, "multiple-choice", taken=taken)
    first.settle()
    second = loaded(path, "multiple-choice", taken=taken, items={**FEW, "held_out": 9})
    rows = [
        {item.choices for role in ROLES for item in data.items(role)} for data in (first, second)
    ]
    assert not rows[0] & rows[1]
    contexts = roles_of(first, lambda item: item.prompt), roles_of(second, lambda item: item.prompt)
    for number, one in enumerate(contexts[0]):
        assert not any(one & other for at, other in enumerate(contexts[1]) if at != number)


BAD: dict[str, tuple[str, dict[str, Any], dict[str, Any], str]] = {
    "a hidden answer": (
        "multiple-choice",
        {"goal": "Open {i}", "sol1": "Push", "sol2": "Pull", "label": 0},
        {"label": -1},
        "with no answer",
    ),
    "a key that is no label": (
        "multiple-choice",
        {
            "question": "Which {i}?",
            "choices": {"text": ["red", "blue"], "label": ["A", "B"]},
            "answerKey": "A",
        },
        {"answerKey": "E"},
        "with an answer that is none of the choices",
    ),
    "a number out of range": (
        "multiple-choice",
        {"prompt": "is it {i}", "choices": ["yes", "no"], "answer": 1},
        {"answer": 7},
        "with an answer that is none of the choices",
    ),
    "no choices": (
        "multiple-choice",
        {"prompt": "is it {i}", "choices": ["yes", "no"], "answer": 1},
        {"choices": []},
        "with fewer than two choices, or an empty one",
    ),
    "a choice that is missing": (
        "multiple-choice",
        {"prompt": "is it {i}", "choices": ["yes", "no"], "answer": 1},
        {"choices": ["yes", None]},
        "with fewer than two choices, or an empty one",
    ),
    "neither true nor false": (
        "multiple-choice",
        {"passage": "Cats purr {i}.", "question": "do they", "answer": "yes"},
        {"answer": "maybe"},
        "with an answer that is neither true nor false",
    ),
    "SQuAD without an answer": (
        "generation",
        {"context": "Bees {i}", "question": "who?", "answers": {"text": ["bees"]}},
        {"answers": {"text": []}},
        "with no answer",
    ),
    "an empty text": (
        "classification",
        {"text": "x {i}", "label": 1},
        {"text": " "},
        "with an empty text",
    ),
    "no class": (
        "classification",
        {"text": "x {i}", "label": "a"},
        {"label": None},
        'with no class in column "label"',
    ),
    "unlabelled": (
        "classification",
        {"text": "x {i}", "label": 1},
        {"label": -1},
        '-1 in column "label", which counts',
    ),
}


def filled(row: dict[str, Any], number: int) -> dict[str, Any]:
    return {k: v.format(i=number) if isinstance(v, str) else v for k, v in row.items()}


@pytest.mark.parametrize("name", BAD)
def test_rows_that_hold_no_item_are_passed_over_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    task, good, bad, reason = BAD[name]
    rows = [filled(good | (bad if i % 2 else {}), i) for i in range(80)]
    if "label" in good and task == "classification":
        rows[0] |= {"label": good["label"] * 2}
        rows[2] |= {"label": good["label"] * 3}
    with caplog.at_level(logging.WARNING):
        data = loaded(jsonl(tmp_path / "o.jsonl", rows), task)
    for role in ROLES:
        assert len(data.items(role)) == FEW[role]
    assert "rows that are passed over" in caplog.text and reason in caplog.text
    assert "(first: row " in caplog.text
    assert sum(data.description["passed over"].values()) > 0


@pytest.mark.parametrize("name", [name for name in BAD if BAD[name][0] != "classification"])
def test_where_no_row_holds_an_item_the_data_is_refused(tmp_path: Path, name: str) -> None:
    task, good, bad, reason = BAD[name]
    rows = [filled(good | bad, i) for i in range(40)]
    with pytest.raises(
        DataError, match=rf"no row of .* can be used. Rows passed over: 40 {reason}"
    ):
        loaded(jsonl(tmp_path / "o.jsonl", rows), task)
