"""Who can teach whom: what cannot be is refused in one message, before anything is trained."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from tests.support import families
from tests.support.benches import TinyData, do, reading_of, tiny_bench
from tests.support.cyrillic import save_classifier, save_student, save_teacher, spec_of
from tests.support.planted import tiny
from tests.support.toys import bytes_tokenizer, jsonl, word_tokenizer
from trainables.bench.bench import Bench
from trainables.core.errors import FieldError, UserError
from trainables.core.spec import BenchSpec, DataSpec, ItemCounts, ModelSpec
from trainables.distill import Distill
from trainables.magnitude import Magnitude
from trainables.omission.method import Omission
from trainables.recover import Recover
from trainables.stage import check_order
from trainables.trial import open_bench


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("pairs")
    save_student(folder / "student")
    save_classifier(folder / "three", ("плюс", "минус", "ноль"))
    save_classifier(folder / "english", ("yes", "no"))
    return open_bench(spec_of(folder))


def place(bench: Bench, name: str) -> ModelSpec:
    return ModelSpec(id=str(Path(bench.spec.cache).parent / name))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("three", "2 classes .*trained to tell apart 3"),
        ("english", r"2 classes \(минус, плюс\).*2 \(yes, no\)"),
        ("nowhere", "no config.json"),
    ],
)
def test_students_of_other_classes_are_refused(opened: Bench, name: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        Distill(place(opened, name)).check(opened.fork())


def test_what_makes_no_sense_is_refused(opened: Bench) -> None:
    bench = opened.fork()
    with pytest.raises(UserError, match="teacher and student are one model"):
        Distill().check(bench)
    with pytest.raises(UserError, match="positions cannot be compared"):
        Distill(place(opened, "student"), attention=1.0).check(bench)
    with pytest.raises(UserError, match=r"no such field \(did you mean \"hidden_size\"\?\)"):
        Distill(smaller={"hidden_sise": 8}).check(bench)
    with pytest.raises(UserError, match=r"Distill.smaller: .*multiple"):
        Distill(smaller={"hidden_size": 15}).check(bench)
    do(bench, Omission(skip=(0,)))
    with pytest.raises(UserError, match="takes the place of what earlier stages made"):
        Distill(place(opened, "student")).check(bench)
    assert Distill().check(bench).student.model is bench.model
    check_order([Omission(skip=(0,)), Distill(), Magnitude(0.5)])
    check_order([Distill("a/b"), Magnitude(0.5)])  # type: ignore[arg-type]
    with pytest.raises(UserError, match="Distill puts another model in place of what Omission"):
        check_order([Omission(skip=(0,)), Distill("a/b")])  # type: ignore[arg-type]


def test_a_teacher_whose_head_nobody_trained_is_refused(tmp_path: Path) -> None:
    spec = spec_of(tmp_path)
    save_student(tmp_path / "student")
    bare = open_bench(
        spec.model_copy(update={"model": spec.model.model_copy(update={"train": None})})
    )
    student = ModelSpec(id=str(tmp_path / "student"))
    with pytest.raises(UserError, match=r"no head that was trained.*\[model.train\]"):
        Distill(student).check(bare)
    other = ModelSpec(id=save_teacher(tmp_path / "other", depth=1))
    with pytest.raises(UserError, match="no head that was trained"):
        Distill(teacher=other).check(bare)


def test_names_and_data_that_disagree_are_refused(tmp_path: Path) -> None:
    """The data's classes are 0 and 1: which is which, the two models do not agree on."""
    rows = [
        {"text": "отличный фильм" if n % 2 else "злой город", "label": n % 2} for n in range(60)
    ]
    for n, row in enumerate(rows):
        row["text"] = f"{row['text']} {n}"
    spec = spec_of(tmp_path)
    data = spec.data.model_copy(update={"dataset": jsonl(tmp_path / "numbers.jsonl", rows)})
    items = ItemCounts(calibration=4, train=8, search=8, held_out=4)
    data = data.model_copy(update={"items": items})
    teaches = ModelSpec(id=save_classifier(tmp_path / "one", ("плюс", "минус")))
    learns = ModelSpec(id=save_classifier(tmp_path / "two", ("минус", "плюс")))
    bench = open_bench(spec.model_copy(update={"model": teaches, "data": data}))
    with pytest.raises(UserError, match="number the data's classes otherwise than they name"):
        Distill(learns).check(bench)


def test_token_by_token_needs_one_vocabulary(tmp_path: Path) -> None:
    spec = decoder_spec(tmp_path, "bytes", bytes_tokenizer())
    decoder_spec(tmp_path, "words", word_tokenizer())
    same = decoder_spec(tmp_path, "same", bytes_tokenizer(), blocks=1).model
    bench = open_bench(spec)
    with pytest.raises(UserError, match="the teacher's has 259 tokens, the student's 51, and 3"):
        Distill(ModelSpec(id=str(tmp_path / "words"))).check(bench)
    with pytest.raises(UserError, match=r"texts are for classification.*give more rows"):
        Distill(same, unlabelled={"dataset": "x.txt"}).check(bench)  # type: ignore[arg-type]
    do(bench, Distill(same, recover=Recover(epochs=1, batch_size=4)))
    assert bench.model.config.num_hidden_layers == 1
    assert bench.measure(["perplexity"]).values["perplexity"] > 1


def decoder_spec(folder: Path, name: str, tokenizer: Any, blocks: int = 2) -> BenchSpec:
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=264, num_hidden_layers=blocks, pad_token_id=0, **sizes)
    LlamaForCausalLM(config).save_pretrained(folder / name)
    tokenizer.save_pretrained(folder / name)
    rows = jsonl(
        folder / "rows.jsonl", [{"text": f"the cat x{n % 8} sat on {n}"} for n in range(60)]
    )
    data = DataSpec(
        dataset=rows,
        task="language-modelling",
        max_length=16,
        items=ItemCounts(calibration=2, train=4, search=4, held_out=2),
    )
    model = ModelSpec(id=str(folder / name))
    cache = str(folder / "cache")
    return BenchSpec(model=model, data=data, objectives=("perplexity",), cache=cache)


@pytest.mark.parametrize("name", ["t5", "bart", "resnet"])
def test_states_of_several_stacks_are_not_compared(name: str, tmp_path: Path) -> None:
    model = families.build(name)
    bench = tiny_bench(tmp_path, model)
    task = "image-classification" if name == "resnet" else "generation"
    batches = [families.batch_of(model)]
    data = TinyData(model, task, made=dict.fromkeys(("train", "search", "calibration"), batches))
    bench = reading_of(bench, data)
    given = bench.spec.data.model_copy(update={"task": task})
    bench = replace(bench, spec=bench.spec.model_copy(update={"data": given}))
    do(bench, Omission(skip=(1,)))
    with pytest.raises(UserError, match="2 stacks of blocks"):
        Distill(hidden=1.0).check(bench)


def test_attention_needs_an_implementation_that_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = tiny_bench(tmp_path, tiny("bert", depth=2))
    do(bench, Omission(skip=(0,)))

    def refuse(self: Any, name: str) -> None:
        raise ValueError("no eager")

    monkeypatch.setattr(type(bench.model), "set_attn_implementation", refuse)
    with pytest.raises(UserError, match="cannot be run by the eager implementation"):
        do(bench, Distill(attention=1.0))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"temperature": 0.0}, "above 0"),
        ({"alpha": 1.5}, "0 to 1"),
        ({"hidden": -1.0}, "0 or more"),
        ({"student": {"id": "x", "dtyp": "float32"}}, "dtyp"),
        ({"student": {"id": "x", "train": {"epochs": 1}}}, "without a table train"),
        ({"smaller": {"a": 1}, "student": "x"}, "nothing beside a student"),
        ({"recover": Recover(freeze="part"), "student": "x"}, 'freeze = "none"'),
    ],
)
def test_fields_say_what_is_allowed(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(FieldError, match=said):
        Distill(**fields)
