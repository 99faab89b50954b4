"""Data from local files: roles that share nothing, errors that say what to do, exact tensors."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.toys import WORDS, bytes_tokenizer, jsonl, word_tokenizer
from trainables.bench.data.pairs import Pair
from trainables.bench.data.prompts import Question
from trainables.bench.data.roles import Data, load_data
from trainables.core.errors import DataError
from trainables.core.places import CHECKOUT
from trainables.core.spec import DataSpec, Role
from trainables.core.types import IGNORED

ROLES: tuple[Role, ...] = get_args(Role)
FEW = {"calibration": 3, "train": 8, "search": 5, "held_out": 4}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def spec(dataset: str, task: str, **fields: Any) -> DataSpec:
    given = {"items": FEW, "max_length": 12, "batch_size": 2, **fields}
    return DataSpec.model_validate({"dataset": dataset, "task": task, **given})


def opinions(count: int = 40) -> list[dict[str, Any]]:
    words = WORDS.split()
    return [
        {"text": f"film {words[i % 40]} {words[(7 * i) % 40]} {i}", "label": ("bad", "good")[i % 2]}
        for i in range(count)
    ]


def stories(count: int = 60) -> list[dict[str, str]]:
    """Documents of which every word is the document's own number."""
    return [{"text": " ".join([f"{i:03d}"] * (2 + i % 5))} for i in range(count)]


def shared(data: Data, of: Callable[[Any], Any]) -> set[Any]:
    """What two roles have in common."""
    held = [{of(item) for item in data.items(role)} for role in ROLES]
    return {x for i, one in enumerate(held) for other in held[i + 1 :] for x in one & other}


def test_one_split_is_shared_out_and_no_text_serves_two_roles(tmp_path: Path) -> None:
    rows = opinions()
    repeated = [{**row, "text": f"  {row['text'].upper()} "} for row in rows[:30]]
    data = load_data(
        spec(jsonl(tmp_path / "o.jsonl", rows + repeated), "classification"), bytes_tokenizer(), 0
    )
    assert {role: len(data.items(role)) for role in ROLES} == FEW
    assert not shared(data, lambda item: " ".join(item.text.lower().split()))
    assert data.labels == ("bad", "good")


def test_a_row_in_two_splits_serves_one_role(tmp_path: Path) -> None:
    rows = opinions()
    both = datasets.DatasetDict(
        train=datasets.Dataset.from_list(rows), test=datasets.Dataset.from_list(rows[:20])
    )
    both.save_to_disk(str(tmp_path / "both"))
    given = spec(
        str(tmp_path / "both"),
        "classification",
        splits={"held_out": "test", "search": "test"},
        items={**FEW, "train": 25},
    )
    data = load_data(given, word_tokenizer(), 0)
    assert not shared(data, lambda item: item.text)
    tested = {row["text"] for row in rows[:20]}
    assert all(item.text in tested for role in ("held_out", "search") for item in data.items(role))


def test_what_is_held_out_depends_on_its_own_count_and_the_seed(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "o.jsonl", opinions())

    def held_out(seed: int = 0, **counts: int) -> list[Any]:
        given = spec(path, "classification", items={**FEW, **counts})
        return load_data(given, word_tokenizer(), seed).items("held_out")

    assert held_out() == held_out(search=9, calibration=1, train=20)
    assert {x.text for x in held_out()} < {x.text for x in held_out(held_out=6)}
    assert held_out() != held_out(seed=1)


def test_every_process_gets_the_same_rows(tmp_path: Path) -> None:
    given = spec(jsonl(tmp_path / "o.jsonl", opinions()), "classification")
    code = (
        "import sys, datasets; from pathlib import Path\n"
        "from tests.support.toys import word_tokenizer\n"
        "from trainables.bench.data.roles import load_data\n"
        "from trainables.core.spec import DataSpec\n"
        "datasets.config.HF_DATASETS_CACHE = Path(sys.argv[2])\n"
        "data = load_data(DataSpec.model_validate_json(sys.argv[1]), word_tokenizer(), 0)\n"
        "print(data.fingerprint('search'))"
    )
    command = [sys.executable, "-c", code, given.model_dump_json(), str(tmp_path / "elsewhere")]
    paths = {"PYTHONPATH": str(CHECKOUT), "PYTHONHASHSEED": "7"}
    done = subprocess.run(command, env=paths, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == load_data(given, word_tokenizer(), 0).fingerprint("search")


def test_the_fingerprint_is_of_the_rows_and_of_how_they_are_encoded(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "o.jsonl", opinions())

    def print_of(tokenizer: Any = None, **fields: Any) -> str:
        given = spec(path, "classification", **fields)
        return load_data(given, tokenizer or word_tokenizer(), 0).fingerprint("search")

    prints = [
        print_of(),
        print_of(bytes_tokenizer()),
        print_of(max_length=4),
        print_of(batch_size=3),
        print_of(items={**FEW, "search": 6}),
    ]
    assert len(set(prints)) == len(prints)
    assert print_of() == print_of(items={**FEW, "train": 1})


def numbers(data: Data, role: Role) -> set[str]:
    """The three-digit numbers in a role's windows."""
    text = "".join(bytes_tokenizer().decode(item.ids) for item in data.items(role))
    return set(re.findall(r"\d{3}", text))


def test_windows_are_full_and_no_document_serves_two_roles(tmp_path: Path) -> None:
    given = spec(jsonl(tmp_path / "s.jsonl", stories(200)), "language-modelling", max_length=12)
    data = load_data(given, bytes_tokenizer(), 0)
    documents = [numbers(data, role) for role in ROLES]
    assert sum(map(len, documents)) == len(set().union(*documents)) > 10
    batch = data.batches("search")[0]
    assert batch["input_ids"].shape == (2, 12)
    assert torch.equal(batch["labels"], batch["input_ids"]) and batch["attention_mask"].all()


def test_a_window_opens_with_the_tokenizers_own_beginning(tmp_path: Path) -> None:
    given = spec(jsonl(tmp_path / "s.jsonl", stories(200)), "language-modelling", max_length=12)
    for item in load_data(given, bytes_tokenizer(bos=True), 0).items("search"):
        assert item.ids[0] == 1 and 1 not in item.ids[1:] and len(item.ids) == 12


def test_text_in_a_split_of_its_own_keeps_its_order(tmp_path: Path) -> None:
    for name in ("train", "test"):
        jsonl(tmp_path / f"{name}.jsonl", stories(100))
    given = spec(
        str(tmp_path),
        "language-modelling",
        splits={"held_out": "test"},
        items={"calibration": 1, "search": 1, "held_out": 9},
    )
    tokenizer = bytes_tokenizer()
    data = load_data(given, tokenizer, 0)
    read = "".join(tokenizer.decode(item.ids) for item in data.items("held_out"))
    whole = "".join(f"{row['text']}\n\n" for row in stories(100))
    assert read == whole[: len(read)] and len(read) == 9 * 12


@pytest.mark.parametrize("name", ["texts.txt", "texts.csv", "texts.parquet", "texts.json", "dir"])
def test_plain_files_are_read(tmp_path: Path, name: str) -> None:
    texts = [f"{i:03d} one\ntwo three" for i in range(60)]
    table, path = datasets.Dataset.from_dict({"text": texts}), tmp_path / name
    if name == "dir":
        path.mkdir()
        for i, text in enumerate(texts):
            (path / f"{i}.txt").write_text(text)
    elif name.endswith("txt"):
        path.write_text("\n\n".join(texts))
    else:
        getattr(table, f"to_{path.suffix[1:]}")(str(path))
    data = load_data(spec(str(path), "language-modelling"), bytes_tokenizer(), 0)
    read = [numbers(data, role) for role in ROLES]
    assert sum(map(len, read)) == len(set().union(*read)) > 10
    assert "one\ntwo three\n\n" in bytes_tokenizer().decode(
        [id for item in data.items("train") for id in item.ids]
    )


def test_classification_pads_to_the_longest_row_of_a_batch(tmp_path: Path) -> None:
    rows = [{"text": " ".join(["cat"] * (i + 1)), "label": i % 2} for i in range(30)]
    data = load_data(spec(jsonl(tmp_path / "o.jsonl", rows), "classification"), word_tokenizer(), 0)
    assert data.labels == ("0", "1")
    lengths = []
    for batch, start in zip(data.batches("search"), range(0, 5, 2), strict=True):
        items = data.items("search")[start : start + 2]
        longest = min(12, max(len(item.text.split()) for item in items) + 2)
        lengths.append(longest)
        assert batch["input_ids"].shape == (len(items), longest)
        assert torch.equal(batch["attention_mask"] == 0, batch["input_ids"] == 0)
        assert batch["labels"].tolist() == [item.label for item in items]
    assert lengths == sorted(lengths, reverse=True)


def test_two_texts_are_told_apart(tmp_path: Path) -> None:
    rows = [{"premise": f"the cat {i}", "hypothesis": "a dog", "label": i % 3} for i in range(30)]
    data = load_data(
        spec(jsonl(tmp_path / "p.jsonl", rows), "classification"),
        word_tokenizer("token_type_ids"),
        0,
    )
    kinds = data.batches("search")[0]["token_type_ids"]
    assert kinds[0].tolist() == [0] * 5 + [1] * 3


def test_class_names_come_from_the_data_set_and_hidden_labels_are_left_out(tmp_path: Path) -> None:
    features = datasets.Features(
        text=datasets.Value("string"), label=datasets.ClassLabel(names=["spam", "ham"])
    )
    rows = [{"text": f"x{i % 10} {i}", "label": i % 3 - 1} for i in range(60)]
    datasets.Dataset.from_list(rows, features=features).save_to_disk(str(tmp_path / "set"))
    data = load_data(spec(str(tmp_path / "set"), "classification"), word_tokenizer(), 0)
    assert data.labels == ("spam", "ham")
    for item in data.items("train"):
        assert item.label == int(item.text.split()[-1]) % 3 - 1


def test_columns_go_by_any_name(tmp_path: Path) -> None:
    rows = [{"review": row["text"], "stars": row["label"]} for row in opinions()]
    path = jsonl(tmp_path / "o.jsonl", rows)
    columns = {"text": "review", "label": "stars"}
    data = load_data(spec(path, "classification", columns=columns), word_tokenizer(), 0)
    assert data.items("search")[0].text.startswith("film")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"columns": {"text": "texd"}}, r'no such column \(did you mean "text"\?\)'),
        ({"columns": {"txt": "text"}}, r'"txt" is no word .* \(did you mean "text"\?\)'),
        ({"splits": {"search": "tran"}}, r'no such split \(did you mean "train"\?\)'),
        ({"items": {**FEW, "search": 90}}, r"search = 90: .* has only 36 left for it, beside"),
        ({"task": "multiple-choice", "columns": {"label": "n"}}, "holds numbers such as 0.5"),
        ({"task": "generation"}, "SQuAD question generation: answer, context, question"),
        ({"dataset": "nowhere/none"}, '"nowhere/none" could not be opened'),
        ({"dataset": "asset:smollm2-135m"}, "asset:smollm2-135m is a model; data sets are"),
    ],
)
def test_a_wrong_spec_is_told_what_to_do(tmp_path: Path, fields: dict[str, Any], says: str) -> None:
    rows = [{**row, "n": i + 0.5} for i, row in enumerate(opinions())]
    path = jsonl(tmp_path / "o.jsonl", rows)
    given = spec(path, "classification")
    with pytest.raises(DataError, match=says):
        load_data(DataSpec.model_validate(given.model_dump() | fields), word_tokenizer(), 0)


def test_too_few_rows_to_train_on_are_told_only_to_those_who_train(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "o.jsonl", opinions())
    data = load_data(spec(path, "classification", items={**FEW, "train": 99}), word_tokenizer(), 0)
    assert len(data.batches("search")) == 3
    with pytest.raises(DataError, match=r"train = 99: .* has only 28 left"):
        data.batches("train")


def test_a_model_without_a_tokenizer_reads_no_text(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "o.jsonl", opinions())
    with pytest.raises(DataError, match="classification needs the model's tokenizer"):
        load_data(spec(path, "classification"), None, 0)


CASES: list[tuple[dict[str, Any], Question]] = [
    (
        {"prompt": "The cat ", "choices": ["sits", "sit"], "answer": 0},
        Question("The cat", (" sits", " sit"), 0),
    ),
    (
        {
            "question": "Which? ",
            "choices": {"text": ["red", "blue"], "label": ["A", "B"]},
            "answerKey": "B",
        },
        Question("Question: Which?\nAnswer:", (" red", " blue"), 1),
    ),
    (
        {"goal": "Open it", "sol1": "Push.", "sol2": "Sing.", "label": 0},
        Question("Question: Open it\nAnswer:", (" Push.", " Sing."), 0),
    ),
    (
        {
            "activity_label": "Baking",
            "ctx": "He mixes. [header] How",
            "endings": ["He bakes.", "He [substeps] flies."],
            "label": "1",
        },
        Question("Question: Baking: He mixes. How\nAnswer:", (" He bakes.", " He flies."), 1),
    ),
    (
        {
            "sentence": "The cup fell off the table as the _ was low.",
            "option1": "cup",
            "option2": "table",
            "answer": "2",
        },
        Question("The cup fell off the table as the", (" cup was low.", " table was low."), 1),
    ),
    (
        {"passage": "Cats purr.", "question": "do cats purr", "answer": True},
        Question("Cats purr.\nQuestion: do cats purr?\nAnswer:", (" False", " True"), 1),
    ),
    (
        {
            "question_stem": "Up is",
            "choices": {"text": ["down", "up"], "label": ["A", "B"]},
            "answerKey": "B",
        },
        Question("Question: Up is\nAnswer:", (" down", " up"), 1),
    ),
    (
        {
            "context": "Tracy left.",
            "question": "Why?",
            "answerA": "tired",
            "answerB": "glad",
            "answerC": "ill",
            "label": "3",
        },
        Question("Question: Tracy left. Why?\nAnswer:", (" tired", " glad", " ill"), 2),
    ),
    (
        {"Problem": "1 + 1 ?", "options": "a ) 1 , b ) 2 , c ) 3", "correct": "b"},
        Question("Question: 1 + 1 ?\nAnswer:", (" 1", " 2", " 3"), 1),
    ),
    (
        {"text": "The match was lost.", "label": "sport_news"},
        Question("The match was lost.\nLabel:", (" other", " sport news"), 1),
    ),
]


@pytest.mark.parametrize(("row", "wanted"), CASES)
def test_known_forms_become_questions(
    tmp_path: Path, row: dict[str, Any], wanted: Question
) -> None:
    rows = [row]
    if "text" in row:
        rows = [row, {"text": "Sunny.", "label": "other"}]
    counts = {"calibration": 1, "search": 1, "held_out": 1, "train": 1}
    text = next(name for name, value in row.items() if isinstance(value, str))
    padding = [{**rows[-1], text: f"{rows[-1][text]} {number}"} for number in range(4)]
    path = jsonl(tmp_path / "q.jsonl", rows + padding)
    form = load_data(spec(path, "multiple-choice", items=counts), bytes_tokenizer(), 0).adapter
    assert form.item(row) == wanted


def test_rows_without_an_answer_are_left_out(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"is it {i}", "choices": ["yes", "no"], "answer": (0, 1, -1)[i % 3]}
        for i in range(60)
    ]
    data = load_data(
        spec(jsonl(tmp_path / "q.jsonl", rows), "multiple-choice"), bytes_tokenizer(), 0
    )
    for role in ROLES:
        assert all(int(item.prompt.split()[-1]) % 3 != 2 for item in data.items(role))


def test_rows_without_a_text_are_left_out(tmp_path: Path) -> None:
    rows = [{"text": f"x {i}" if i % 2 else None, "label": i % 4} for i in range(60)]
    data = load_data(
        spec(jsonl(tmp_path / "o.jsonl", rows), "classification"), bytes_tokenizer(), 0
    )
    assert all(item.text.startswith("x") for role in ROLES for item in data.items(role))


def test_an_answer_that_is_no_choice_is_named(tmp_path: Path) -> None:
    rows = [{"prompt": f"is it {i}", "choices": ["yes", "no"], "answer": 2} for i in range(30)]
    given = spec(jsonl(tmp_path / "q.jsonl", rows), "multiple-choice")
    with pytest.raises(DataError, match=r"no row .* can be used.*30 with an answer that is none"):
        load_data(given, bytes_tokenizer(), 0)


def test_several_labels_per_row_are_refused(tmp_path: Path) -> None:
    rows = [{"text": f"x {i}", "label": ["a", "b"]} for i in range(30)]
    given = spec(jsonl(tmp_path / "o.jsonl", rows), "classification")
    with pytest.raises(DataError, match='"label" holds a List per row; allowed is one class'):
        load_data(given, word_tokenizer(), 0)


def questions(count: int = 30) -> list[dict[str, Any]]:
    choices = ["yes", "no no", "maybe"]
    return [
        {"prompt": f"is it {i}{' or' * (i % 3)}", "choices": choices[: 2 + i % 2], "answer": i % 2}
        for i in range(count)
    ]


def test_every_choice_is_a_row_whose_labels_are_its_own_tokens(tmp_path: Path) -> None:
    tokenizer = bytes_tokenizer(bos=True)
    given = spec(jsonl(tmp_path / "q.jsonl", questions()), "multiple-choice", max_length=40)
    data = load_data(given, tokenizer, 0)
    rows = [
        (tokenizer.decode(ids[mask.bool()]), tokenizer.decode(labels[labels != IGNORED]))
        for batch in data.batches("search")
        for ids, mask, labels in zip(*(batch[n] for n in _NAMES), strict=True)
    ]
    assert rows == [
        (f"<s>{item.prompt}{choice}", choice)
        for item in data.items("search")
        for choice in item.choices
    ]


_NAMES = ("input_ids", "attention_mask", "labels")


def test_only_right_answers_are_trained_on(tmp_path: Path) -> None:
    tokenizer = bytes_tokenizer()
    given = spec(jsonl(tmp_path / "q.jsonl", questions()), "multiple-choice", max_length=40)
    data = load_data(given, tokenizer, 0)
    for role in ("calibration", "train"):
        answers = [
            tokenizer.decode(row[row != IGNORED])
            for batch in data.batches(role)
            for row in batch["labels"]
        ]
        assert answers == [item.choices[item.answer] for item in data.items(role)]


def test_a_long_prompt_loses_its_beginning(tmp_path: Path) -> None:
    tokenizer = bytes_tokenizer(bos=True)
    given = spec(jsonl(tmp_path / "q.jsonl", questions()), "multiple-choice", max_length=12)
    data = load_data(given, tokenizer, 0)
    batch, item = data.batches("search")[0], data.items("search")[0]
    assert batch["input_ids"].shape[1] == 12
    read = tokenizer.decode(batch["input_ids"][0][batch["attention_mask"][0].bool()])
    assert read.startswith("<s>") and (item.prompt + item.choices[0]).endswith(read[3:])


def test_an_encoder_decoder_reads_a_source_and_writes_a_target(tmp_path: Path) -> None:
    rows = [{"source": f"the cat {i}", "target": "sat on mat"} for i in range(30)]
    path = jsonl(tmp_path / "g.jsonl", rows)
    tokenizer = word_tokenizer()
    data = load_data(spec(path, "generation"), tokenizer, 0)
    batch = data.batches("search")[0]
    assert batch["input_ids"].shape == (2, 5)
    assert tokenizer.decode(batch["labels"][0]) == "<s> sat on mat </s>"
    assert data.items("search")[0].target == "sat on mat"


def test_a_decoder_reads_both_and_predicts_the_target(tmp_path: Path) -> None:
    rows = [{"source": f"cat {i}", "target": "mat" * (1 + i % 2)} for i in range(30)]
    tokenizer = bytes_tokenizer()
    data = load_data(
        spec(jsonl(tmp_path / "g.jsonl", rows), "generation", max_length=30),
        tokenizer,
        0,
        encoder_decoder=False,
    )
    for batch, start in zip(data.batches("search"), range(0, 5, 2), strict=True):
        for ids, labels, item in zip(
            batch["input_ids"], batch["labels"], data.items("search")[start:], strict=False
        ):
            assert tokenizer.decode(labels[labels != IGNORED]) == f" {item.target}</s>"
            assert tokenizer.decode(ids).startswith(f"{item.source} {item.target}</s>")


def test_a_question_is_asked_for_from_its_answer(tmp_path: Path) -> None:
    context, asked = "Bees make honey.", "What do bees make?"
    rows = [
        {"context": f"{context} {i}", "question": asked, "answers": {"text": ["honey"]}}
        for i in range(20)
    ]
    given = spec(jsonl(tmp_path / "s.jsonl", rows), "generation")
    form = load_data(given, bytes_tokenizer(), 0).adapter
    assert form.item(rows[0]) == Pair(f"answer: honey context: {context} 0", asked)


def pictures(count: int = 24) -> list[Image.Image]:
    draw = np.random.default_rng(0)
    return [Image.fromarray(draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)) for _ in range(count)]


def test_images_come_as_pixels_and_a_repeated_one_serves_one_role(tmp_path: Path) -> None:
    for number, picture in enumerate([*pictures(), *pictures()]):
        folder = tmp_path / "images" / ("cat" if number % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        picture.save(folder / f"{number}.png")
    data = load_data(spec(str(tmp_path / "images"), "image-classification"), None, 0)
    assert data.labels == ("cat", "dog")
    assert not shared(data, lambda item: item.image.tobytes())
    batch, items = data.batches("search")[0], data.items("search")
    assert batch["pixel_values"].shape == (2, 3, 8, 8)
    wanted = np.array(items[0].image, dtype=np.float32).transpose(2, 0, 1) / 127.5 - 1
    assert np.array_equal(batch["pixel_values"][0].numpy(), wanted)


def test_the_models_own_image_processor_is_used(tmp_path: Path) -> None:
    from transformers import ViTImageProcessorPil

    rows = {"image": [{"bytes": None, "path": None}] * 24, "label": [i % 2 for i in range(24)]}
    for number, picture in enumerate(pictures()):
        picture.save(tmp_path / f"{number}.png")
        rows["image"][number] = {"bytes": (tmp_path / f"{number}.png").read_bytes(), "path": None}
    datasets.Dataset.from_dict(rows).to_parquet(str(tmp_path / "images.parquet"))
    processor = ViTImageProcessorPil(size={"height": 4, "width": 4})
    given = spec(str(tmp_path / "images.parquet"), "image-classification")
    data = load_data(given, processor, 0)
    batch = data.batches("search")[0]
    assert batch["pixel_values"].shape == (2, 3, 4, 4)
    first = processor(images=data.items("search")[0].image, return_tensors="pt")["pixel_values"]
    assert torch.equal(batch["pixel_values"][:1], first)


def test_packaged_digits_are_grey_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYDUCE_ASSETS", str(tmp_path / "assets"))
    data = load_data(spec("asset:digits", "image-classification"), None, 0)
    assert data.batches("search")[0]["pixel_values"].shape == (2, 1, 8, 8)
    assert data.labels == tuple("0123456789")


@pytest.mark.assets
@pytest.mark.parametrize("name", ["imdb", "rotten-tomatoes", "bbc-news", "trec", "sms-spam"])
def test_packaged_texts_share_nothing_between_roles(name: str) -> None:
    counts = {"calibration": 100, "train": 1200, "search": 300, "held_out": 500}
    given = spec(f"asset:{name}", "classification", items=counts)
    data = load_data(given, bytes_tokenizer(), 0)
    assert not shared(data, lambda item: " ".join(item.text.lower().split()))
    held = [item.label for item in data.items("held_out")]
    assert len(set(held)) == len(data.labels)


@pytest.mark.assets
def test_a_part_of_a_packaged_set_can_be_named() -> None:
    given = spec("asset:subject-verb-agreement", "multiple-choice", subset="simple")
    prompts = {item.prompt for item in load_data(given, bytes_tokenizer(), 0).items("train")}
    assert all(len(prompt.split()) == 2 for prompt in prompts)
    with pytest.raises(DataError, match=r'no part "simpel" \(did you mean "simple"\?\)'):
        load_data(given.model_copy(update={"subset": "simpel"}), bytes_tokenizer(), 0)
