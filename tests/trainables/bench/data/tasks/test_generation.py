"""Texts to be written: prompts with columns in braces, people's layouts, chats, and cuts."""

import json
import logging
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pytest
from pydantic import ValidationError
from transformers import PreTrainedTokenizerFast

from tests.support.toys import bytes_tokenizer, chat_tokenizer, metaspace_tokenizer
from trainables.bench.data.roles import Data, load_data
from trainables.core.errors import DataError
from trainables.core.spec import DataSpec
from trainables.core.types import IGNORED

FEW = {"calibration": 2, "train": 2, "search": 4, "held_out": 2}
ROWS = [
    {"passage": f"Passage {i} tells of {i * i}.", "asked": f"What of {i}?", "said": f"It is {i}"}
    for i in range(20)
]
PROMPT = "{passage}\nQuestion: {asked}\nAnswer:"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def load(
    path: Path, rows: Any, tokenizer: Any = None, *, name: str = "rows.json", **spec: Any
) -> Data:
    file = path / name
    if name.endswith(".parquet"):
        pd.DataFrame(rows).to_parquet(file)
    elif name.endswith(".csv"):
        pd.DataFrame(rows).to_csv(file, index=False)
    elif name.endswith(".jsonl"):
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        file.write_text(json.dumps(rows))
    given = {"items": FEW, "max_length": 120, "batch_size": 4, "group": "none"} | spec
    known = DataSpec.model_validate({"dataset": str(file), "task": "generation", **given})
    return load_data(known, tokenizer or bytes_tokenizer(), 0, encoder_decoder=False)


def sources(data: Data) -> set[str]:
    return {item.source for item in data.items("search")}


def read(tokenizer: PreTrainedTokenizerFast, data: Data, row: int = 0) -> tuple[str, str]:
    """What a row of the first batch asks, and what it answers."""
    batch = data.batches("search")[0]
    labels, ids = batch["labels"][row], batch["input_ids"][row]
    asked = ids[(labels == IGNORED) & (batch["attention_mask"][row] == 1)]
    return tokenizer.decode(asked), tokenizer.decode(labels[labels != IGNORED])


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "rows.csv", "rows.parquet"])
def test_a_prompt_names_columns_in_any_kind_of_file(tmp_path: Path, name: str) -> None:
    data = load(tmp_path, ROWS, name=name, prompt=PROMPT, columns={"target": "said"})
    made = {f"{r['passage']}\nQuestion: {r['asked']}\nAnswer:": r["said"] for r in ROWS}
    for item in data.items("search"):
        assert made[item.source] == item.target
    asked, answer = read(bytes_tokenizer(), data)
    assert asked.endswith("\nAnswer:") and answer.startswith(" It is") and answer.endswith("</s>")
    described = data.description
    assert described["prompts"] == PROMPT and described["asked"] == "as they are"
    assert described["columns"] == {"passage": "passage", "asked": "asked", "target": "said"}


def test_columns_go_by_other_words_in_a_prompt(tmp_path: Path) -> None:
    columns = {"frage": "asked", "target": "said"}
    data = load(tmp_path, ROWS, prompt="{{q}} {frage} ", columns=columns)
    assert all(source.startswith("{q} What of") for source in sources(data))
    asked, answer = read(bytes_tokenizer(), data)
    assert asked.endswith("? ") and answer.startswith("It is")  # no second space


def test_a_column_that_a_prompt_lacks_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"\{pasage\}.*no such column.*passage, asked, said"
    ) as told:
        load(tmp_path, ROWS, prompt="{pasage}", columns={"target": "said"})
    assert 'did you mean "passage"' in str(told.value)
    with pytest.raises(DataError, match=r"\[data.columns\] target"):
        load(tmp_path, ROWS, prompt="{passage}")


@pytest.mark.parametrize("prompt", ["nothing named", "{open", "{a:>3}", "{a!r}", "{}"])
def test_a_prompt_that_is_none_is_refused(prompt: str) -> None:
    with pytest.raises(ValidationError, match="brace"):
        DataSpec(dataset="x", task="generation", prompt=prompt)
    with pytest.raises(ValidationError, match='prompt: for task = "generation"'):
        DataSpec(dataset="x", task="classification", prompt="{text}")


def test_rows_that_lack_something_are_counted_by_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bad = [
        {"passage": "p", "asked": " ", "said": "x"},
        {"passage": "p", "asked": None, "said": "y"},
        {"passage": "p", "asked": "q", "said": ""},
    ]
    with caplog.at_level(logging.WARNING):
        data = load(
            tmp_path,
            [*bad, *ROWS[:7]],
            prompt=PROMPT,
            columns={"target": "said"},
            items={**FEW, "search": 2, "held_out": 3},
        )
        data.settle()
    assert data.description["passed over"] == {
        'an empty text in column "asked"': 1,
        'nothing in column "asked"': 1,
        "an empty text": 1,
    }
    assert "rows that are passed over" in caplog.text


# -- layouts -------------------------------------------------------------------------------------

TASKS = [
    {"instruction": f"Add one to it. {i}", "input": str(i) if i % 2 else "", "output": f"= {i + 1}"}
    for i in range(20)
]


@pytest.mark.parametrize(
    "nest",
    [
        lambda row: row,
        lambda row: {"id": 7, "example": row},
        lambda row: {"example": {"in": {k: row[k] for k in ("instruction", "input")}} | row},
    ],
)
def test_instructions_are_read_flat_or_nested(tmp_path: Path, nest: Any) -> None:
    data = load(tmp_path, [nest(row) for row in TASKS])
    assert data.description["prompts"] == "instruction, input and output"
    for item in data.items("search"):
        row = TASKS[int(item.target.removeprefix("= ")) - 1]
        assert row["instruction"] in item.source
        assert ("### Input:\n" in item.source) == bool(row["input"])
        assert item.source.endswith("\n\n### Response:\n")
    chat = load(tmp_path, [nest(row) for row in TASKS], chat_tokenizer())
    assert all("###" not in source for source in sources(chat))


def test_an_optional_column_may_be_empty(tmp_path: Path) -> None:
    data = load(tmp_path, TASKS, prompt="{instruction}\n{input?}\n", columns={"target": "output"})
    assert any(source.endswith("\n\n") for source in sources(data))
    assert not data.description["passed over"]


def test_dots_lead_into_tables_and_lists(tmp_path: Path) -> None:
    rows = [{"turns": [{"text": f"ask {i}"}, {"text": f"say {i}"}]} for i in range(20)]
    data = load(tmp_path, rows, prompt="Q: {turns.0.text}\nA:", columns={"target": "turns.1.text"})
    for item in data.items("search"):
        number = item.target.removeprefix("say ")
        assert item.source == f"Q: ask {number}\nA:"
    several = [{"q": f"q{i}", "answers": {"text": [f"a{i}", "b"]}} for i in range(20)]
    first = load(tmp_path, several, prompt="{q}", columns={"target": "answers"})
    assert all(item.target == f"a{item.source[1:]}" for item in first.items("search"))


def test_rows_may_lie_in_an_object_and_lines_may_be_broken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wrapped = load(tmp_path, {"version": 1, "data": TASKS})
    assert len(wrapped.items("search")) == 4
    lines = [json.dumps(row) for row in TASKS]
    (tmp_path / "broken.jsonl").write_text("\n".join([lines[0], "{oops", "[1]", *lines[1:]]))
    spec = {"dataset": str(tmp_path / "broken.jsonl"), "task": "generation", "items": FEW}
    with caplog.at_level(logging.WARNING):
        data = load_data(DataSpec.model_validate(spec), bytes_tokenizer(), 0, encoder_decoder=False)
    assert len(data.items("search")) == 4
    assert "2 lines are left out, the first is line 2" in caplog.text


# -- chats ---------------------------------------------------------------------------------------


def test_a_chat_template_asks_and_its_end_of_turn_is_learned(tmp_path: Path) -> None:
    tokenizer = chat_tokenizer()
    data = load(tmp_path, ROWS, tokenizer, prompt=PROMPT, columns={"target": "said"}, system="S!")
    asked, answer = read(tokenizer, data)
    item = data.items("search")[0]
    assert asked == f"<turn>system:S!</turn>\n<turn>user:{item.source}</turn>\n<turn>assistant:"
    assert answer == f"{item.target}</turn>"
    assert data.description["asked"] == (
        "in the tokenizer's chat template, after the system's turn: S!"
    )
    plain = load(tmp_path, ROWS, tokenizer, prompt=PROMPT, columns={"target": "said"}, chat=False)
    assert "<turn>" not in read(tokenizer, plain)[0]
    assert read(tokenizer, plain)[1].endswith("</s>")
    assert plain.fingerprint("search") != data.fingerprint("search")


def test_a_chat_that_is_not_there_is_refused(tmp_path: Path) -> None:
    for given, says in (
        ({"chat": True}, "has no chat template"),
        ({"system": "S"}, "no chat that it could open"),
    ):
        with pytest.raises(DataError, match=says):
            load(tmp_path, ROWS, prompt=PROMPT, columns={"target": "said"}, **given)
    refusing = chat_tokenizer()
    refusing.chat_template = "{{ raise_exception('only user turns') }}"
    with pytest.raises(DataError, match="refuses: only user turns"):
        load(tmp_path, ROWS, refusing, prompt=PROMPT, columns={"target": "said"})


@pytest.mark.parametrize("chat", [True, False])
def test_a_long_prompt_loses_of_its_longest_text_only(tmp_path: Path, chat: bool) -> None:
    rows = [
        {**row, "passage": row["passage"] + " and more" * (5 * i)} for i, row in enumerate(ROWS)
    ]
    tokenizer = chat_tokenizer()
    columns = {"target": "said"}
    data = load(tmp_path, rows, tokenizer, prompt=PROMPT, columns=columns, chat=chat)
    for row, item in enumerate(data.items("search")):
        batch = data.batches("search")[0]
        assert int(batch["attention_mask"][row].sum()) <= 120
        asked, answer = read(tokenizer, data, row)
        question = item.source.partition("\n")[2]
        assert question in asked and item.source[:8] in asked
        assert asked.endswith("assistant:" if chat else "Answer:")
        assert item.target in answer


def test_an_answer_has_the_tokens_it_has_in_the_joined_text(tmp_path: Path) -> None:
    tokenizer = metaspace_tokenizer()
    words = [["is" if bit == "1" else "it" for bit in f"{n:05b}"] for n in range(20)]
    rows = [{"source": " ".join(one), "target": "yes no"} for one in words]
    (batch,) = load(tmp_path, rows, tokenizer).batches("search")
    for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
        whole = tokenizer(f"{tokenizer.decode(ids[:5])} yes no", add_special_tokens=False).input_ids
        assert ids.tolist() == [*whole, tokenizer.eos_token_id]
        assert labels[labels != IGNORED].tolist() == ids[5:].tolist()


def test_what_ends_an_answer_is_part_of_the_data(tmp_path: Path) -> None:
    given = {"prompt": PROMPT, "columns": {"target": "said"}}
    marks = [
        load(tmp_path, ROWS, **given, **more).fingerprint("search")
        for more in ({}, {"stop": ["\n"]}, {"max_new_tokens": 3})
    ]
    assert len(set(marks)) == 3
