"""Questions as others published them: each prompt and choice letter for letter."""

from pathlib import Path
from typing import Any

import datasets
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.support.toys import bytes_tokenizer, jsonl, metaspace_tokenizer
from trainables.bench.data.prompts import Question
from trainables.bench.data.roles import Data, load_data
from trainables.bench.data.tokenize import choice_rows, question_ids
from trainables.core.errors import DataError
from trainables.core.spec import DataSpec, Prompts


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


PIQA = {
    "goal": "How to cool it? ",
    "sol1": "Put them in the freezer overnight ",
    "sol2": "Sing.",
    "label": 0,
}
BOOLQ = {"passage": "Cats purr.", "question": "do cats purr ", "answer": True}
HELLASWAG = {
    "activity_label": "Baking",
    "ctx_a": "He mixes. [header] How",
    "ctx_b": "he bakes",
    "ctx": "He mixes. [header] How he bakes",
    "endings": [" a cake [title] So.", "He [substeps] flies.", "c", "d"],
    "label": "1",
}
WINOGRANDE = {
    "sentence": "The cup fell off the table as the _ was low. ",
    "option1": "cup",
    "option2": "table",
    "answer": "2",
}
MATH = {
    "Problem": "1 + 1 ?",
    "options": "a ) 1 , b ) 2 , 000 , c ) 3 , d ) 4 , e ) none, of these",
    "correct": "b",
}
BOOK = {
    "question_stem": "Up is ",
    "choices": {"text": ["down", "up"], "label": ["A", "B"]},
    "answerKey": "B",
}
COMMON = {
    "question": " Where? ",
    "question_concept": "place",
    "choices": {"text": ["here", "there", "up", "in", "out"], "label": list("ABCDE")},
    "answerKey": "C",
}
ARC = {
    "question": "Which? ",
    "choices": {"text": ["red ", "blue"], "label": ["1", "2"]},
    "answerKey": "2",
}

WANTED: list[tuple[Prompts, dict[str, Any], Question]] = [
    (
        "pudding",
        PIQA,
        Question(
            "Question: How to cool it? \nAnswer:",
            (" Put them in the freezer overnight ", " Sing."),
            0,
        ),
    ),
    (
        "pudding",
        BOOLQ,
        Question("Cats purr.\nQuestion: do cats purr ?\nAnswer:", (" False", " True"), 1),
    ),
    (
        "pudding",
        HELLASWAG,
        Question(
            "Question: Baking: He mixes. [header] How he bakes\nAnswer:",
            ("  a cake [title] So.", " He [substeps] flies.", " c", " d"),
            1,
        ),
    ),
    (
        "pudding",
        WINOGRANDE,
        Question(
            "",
            (
                "The cup fell off the table as the cup was low. ",
                "The cup fell off the table as the table was low. ",
            ),
            1,
        ),
    ),
    (
        "pudding-questions",
        WINOGRANDE,
        Question(
            "Question: The cup fell off the table as the _ was low. \nAnswer:",
            (" cup", " table"),
            1,
        ),
    ),
    (
        "pudding",
        MATH,
        Question(
            f"Problem: 1 + 1 ?\nOptions: {MATH['options']}\\Answer:",
            (" a", " b", " c", " d", " e"),
            1,
        ),
    ),
    ("pudding", ARC, Question("Question: Which? \nAnswer:", (" red ", " blue"), 1)),
    (
        "lm-eval",
        PIQA,
        Question(
            "Question: How to cool it? \nAnswer:",
            (" Put them in the freezer overnight ", " Sing."),
            0,
        ),
    ),
    (
        "lm-eval",
        BOOLQ,
        Question("Cats purr.\nQuestion: do cats purr ?\nAnswer:", (" no", " yes"), 1),
    ),
    (
        "lm-eval",
        HELLASWAG,
        Question("Baking: He mixes. How He bakes", (" a cake. So.", " He flies.", " c", " d"), 1),
    ),
    (
        "lm-eval",
        WINOGRANDE,
        Question(
            "The cup fell off the table as the",
            (" was low.", " was low."),
            1,
            contexts=(
                "The cup fell off the table as the cup",
                "The cup fell off the table as the table",
            ),
        ),
    ),
    (
        "lm-eval",
        MATH,
        Question("Question: 1 + 1 ?\nAnswer:", (" 1", " 2", " 3", " 4", " none, of these"), 1),
    ),
    ("lm-eval", BOOK, Question("Up is", ("  down", "  up"), 1, lengths=(4, 2))),
    (
        "lm-eval",
        COMMON,
        Question(
            "Question: Where?\nA. here\nB. there\nC. up\nD. in\nE. out\nAnswer:",
            (" A", " B", " C", " D", " E"),
            2,
        ),
    ),
    ("lm-eval", ARC, Question("Question: Which? \nAnswer:", (" red ", " blue"), 1)),
]


def loaded(folder: Path, rows: list[dict[str, Any]], prompts: Prompts = "rayduce") -> Data:
    given = {
        "dataset": jsonl(folder / "q.jsonl", rows),
        "task": "multiple-choice",
        "items": {"calibration": 1, "search": 1, "held_out": 1, "train": 1},
        "prompts": prompts,
        "max_length": 200,
    }
    return load_data(DataSpec.model_validate(given), bytes_tokenizer(), 0)


def numbered(row: dict[str, Any]) -> list[dict[str, Any]]:
    text = next(name for name, value in row.items() if isinstance(value, str))
    return [row, *({**row, text: f"{number} {row[text]}"} for number in range(9))]


@pytest.mark.parametrize(("prompts", "row", "wanted"), WANTED)
def test_rows_are_asked_as_they_were_published(
    tmp_path: Path, prompts: Prompts, row: dict[str, Any], wanted: Question
) -> None:
    data = loaded(tmp_path, numbered(row), prompts)
    assert data.adapter.item(row) == wanted
    assert data.description["prompts"].endswith(f", as {prompts} asks")


def test_a_form_that_nobody_published_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none of the known pudding forms .*HellaSwag"):
        loaded(tmp_path, numbered(BOOK), "pudding")


@pytest.mark.parametrize("label", [0, 1, "0", "1"])
def test_boolq_of_another_collection_has_numbers(tmp_path: Path, label: Any) -> None:
    row = {"passage": "Cats purr.", "question": "do cats purr", "label": label}
    item = loaded(tmp_path, numbered(row)).adapter.item(row)
    assert item.choices[item.answer] == (" True" if int(label) else " False")


@pytest.mark.parametrize(("text", "right"), [("yes", " True"), ("TRUE", " True"), ("no", " False")])
def test_boolq_answers_may_be_text(tmp_path: Path, text: str, right: str) -> None:
    row = {**BOOLQ, "answer": text}
    item = loaded(tmp_path, numbered(row)).adapter.item(row)
    assert item.choices[item.answer] == right


# each row: choices, answer, which choice is right
NUMBERS: dict[str, list[tuple[list[Any], Any, int]]] = {
    "numbers name a choice's place": [([3, 2, 0], 0, 0), ([1, 0, 5], 2, 2), ([0, 1, 2], 1, 1)],
    "values that are no places": [([30, 20], 20, 1), ([5, 7], 5, 0), ([0, 1], 1, 1)],
    "texts that are choices": [(["3", "2", "0"], "0", 2), (["1", "0", "2"], "2", 2)],
    "negative values": [(["-1", "4"], "-1", 0), (["2", "-1"], "2", 0), (["8", "9"], "9", 1)],
    "letters": [(["red", "blue"], "B", 1), (["cat", "dog"], "A", 0)],
}


@pytest.mark.parametrize("name", NUMBERS)
def test_choices_that_are_numbers_are_told_from_their_places(tmp_path: Path, name: str) -> None:
    rows = [
        {"prompt": f"is it {i}-{j}", "choices": choices, "answer": answer}
        for i in range(6)
        for j, (choices, answer, _) in enumerate(NUMBERS[name])
    ]
    adapter = loaded(tmp_path, rows).adapter
    for row, (_, _, right) in zip(rows, NUMBERS[name], strict=False):
        assert adapter.item(row).answer == right


def test_lists_written_as_text_are_refused(tmp_path: Path) -> None:
    rows = [{"prompt": f"is it {i}", "choices": "['yes', 'no']", "answer": 0} for i in range(9)]
    with pytest.raises(DataError, match='"choices" holds one value per row; allowed is a list'):
        loaded(tmp_path, rows)


def test_a_text_column_of_lists_is_refused(tmp_path: Path) -> None:
    rows = [{**PIQA, "goal": ["a", str(i)]} for i in range(9)]
    with pytest.raises(DataError, match='"goal" holds a List per row; allowed is text'):
        loaded(tmp_path, rows)


def test_choices_that_are_tables_are_refused(tmp_path: Path) -> None:
    choices = [{"text": "yes"}, {"text": "no"}]
    rows = [{"prompt": f"is it {i}", "choices": choices, "answer": 1} for i in range(9)]
    with pytest.raises(DataError, match='"choices" holds a list of tables per row; allowed is a'):
        loaded(tmp_path, rows)


# -- tokens --------------------------------------------------------------------------------------


def test_a_choice_has_the_tokens_it_has_in_the_joined_text() -> None:
    tokenizer = metaspace_tokenizer()
    item = Question("is it:", (" yes", " no"), 0)
    assert len(tokenizer(" yes", add_special_tokens=False).input_ids) == 2  # with a space too many
    start, choices = question_ids(tokenizer, item, 50)
    for text, tokens in zip(item.choices, choices, strict=True):
        assert start + tokens == tokenizer(item.prompt + text, add_special_tokens=False).input_ids
        assert len(tokens) == 1


def test_where_a_prompt_and_a_choice_melt_the_choice_keeps_its_own_tokens() -> None:
    raw = Tokenizer(models.WordLevel({"<unk>": 0, "ab": 1, "a": 2, "b": 3}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>", eos_token="<unk>")
    assert question_ids(tokenizer, Question("a", ("b", " b"), 0), 9) == ([2], [[3], [3]])


def test_choices_with_prompts_of_their_own_follow_them() -> None:
    tokenizer = bytes_tokenizer(bos=True)
    item = Question("it", (" x", " x"), 0, contexts=("it a", "it bc"))
    rows = choice_rows(tokenizer, item, 50)
    assert [tokenizer.decode(start + rest) for start, rest in rows] == ["<s>it a x", "<s>it bc x"]
    assert [tokenizer.decode(rest) for _, rest in rows] == [" x", " x"]


@pytest.mark.parametrize(("bos", "eos", "wanted"), [("<s>", "</s>", 1), (None, "</s>", 2)])
def test_an_empty_prompt_begins_with_bos_where_there_is_one(
    bos: str | None, eos: str, wanted: int
) -> None:
    tokenizer = bytes_tokenizer()
    tokenizer.bos_token, tokenizer.eos_token = bos, eos
    assert question_ids(tokenizer, Question("", ("ab", "cd"), 0), 9)[0] == [wanted]
