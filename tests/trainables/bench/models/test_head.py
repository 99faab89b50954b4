"""A fine-tuned head is used in its own order, and one of other classes is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
)

from tests.support.families import COMMON
from tests.support.toys import jsonl, word_tokenizer
from trainables.bench.bench import Bench
from trainables.bench.metrics.evaluate import measure_all
from trainables.bench.models.load import head_classes
from trainables.bench.models.save import save
from trainables.core.errors import DataError
from trainables.core.spec import BenchSpec, DataSpec, ItemCounts, ModelSpec
from trainables.recover import Recover
from trainables.stage import drain
from trainables.trial import open_bench

WORDS = ("good", "bad", "cat", "dog", "mat", "film", "red", "blue", "green", "one")
SMALL = COMMON | {"vocab_size": len(word_tokenizer())}


def rows(folder: Path, *classes: Any, count: int = 60) -> str:
    """Texts of different lengths, whose first word tells the class."""
    found = []
    for n in range(count):
        text = " ".join([WORDS[n % len(classes)], *(WORDS[(n * k) % 10] for k in range(n % 9))])
        found.append(
            {"text": f"{text} {WORDS[n % 7]} x{n % 8}", "label": classes[n % len(classes)]}
        )
    return jsonl(folder / "rows.jsonl", found)


def classifier(folder: Path, names: dict[int, str], **config: Any) -> Path:
    torch.manual_seed(0)
    made = BertConfig(**SMALL, id2label=names, label2id={v: k for k, v in names.items()}, **config)
    return saved(BertForSequenceClassification(made), folder)


def saved(model: Any, folder: Path, **special: Any) -> Path:
    model.save_pretrained(folder / "model")
    tokenizer = word_tokenizer()
    for name, value in special.items():
        setattr(tokenizer, name, value)
    tokenizer.save_pretrained(folder / "model")
    return folder / "model"


def opened(folder: Path, model: Path, dataset: str, size: int = 4, **options: Any) -> Bench:
    items = ItemCounts(calibration=4, train=8, search=16, held_out=4)
    data = DataSpec(
        dataset=dataset, task="classification", items=items, max_length=32, batch_size=size
    )
    spec = BenchSpec(
        model=ModelSpec(id=str(model)),
        data=data,
        objectives=("accuracy",),
        cache=str(folder / f"cache-{size}"),
    )
    return open_bench(spec)


def test_the_data_is_numbered_as_the_model_is(tmp_path: Path) -> None:
    model = classifier(tmp_path, {0: "Yes", 1: "No"})
    bench = opened(tmp_path, model, rows(tmp_path, "yes", "no"))
    assert bench.data.labels == ("Yes", "No")
    items = bench.data.items("search")
    assert {item.text.split()[0]: item.label for item in items} == {"good": 0, "bad": 1}
    assert bench.model.config.id2label == {0: "Yes", 1: "No"}
    (tmp_path / "out").mkdir()
    save(bench.model, bench.processor, "classification", tmp_path / "out")
    assert AutoConfig.from_pretrained(tmp_path / "out").id2label == {0: "Yes", 1: "No"}


@pytest.mark.parametrize(
    ("names", "classes", "labels"),
    [
        ({0: "LABEL_0", 1: "LABEL_1"}, ("no", "yes"), ("no", "yes")),
        ({0: "negative", 1: "positive"}, (0, 1), ("negative", "positive")),
        ({0: "c", 1: "a", 2: "b"}, ("a", "b", "c"), ("c", "a", "b")),
    ],
)
def test_classes_without_names_match_by_number(
    tmp_path: Path, names: dict[int, str], classes: tuple[Any, ...], labels: tuple[str, ...]
) -> None:
    bench = opened(tmp_path, classifier(tmp_path, names), rows(tmp_path, *classes))
    assert bench.data.labels == labels
    number = {item.text.split()[0]: item.label for item in bench.data.items("search")}
    spelled = [labels[number[WORDS[n]]] for n in range(len(classes))]
    assert spelled == [str(c) if isinstance(c, str) else names[c] for c in classes]


def test_an_order_that_is_taken_on_trust_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = classifier(tmp_path, {0: "LABEL_0", 1: "LABEL_1"})
    opened(tmp_path, model, rows(tmp_path, "no", "yes"))
    assert "the model has no names for its classes" in caplog.text
    assert "(0 = no, 1 = yes)" in caplog.text
    caplog.clear()
    opened(tmp_path, model, rows(tmp_path, 0, 1))
    assert not caplog.text


@pytest.mark.parametrize(
    ("names", "classes", "said"),
    [
        ({0: "joy", 1: "anger"}, ("no", "yes"), r"2 classes \(no, yes\).*2 \(joy, anger\)"),
        ({0: "a", 1: "b", 2: "c"}, ("a", "b"), r"2 classes \(a, b\).*3 \(a, b, c\)"),
        ({0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}, ("a", "b"), "2 classes.*3 .LABEL_0"),
        ({0: "LABEL_0"}, ("a", "b"), "2 classes.*1 .LABEL_0"),
    ],
)
def test_other_classes_are_refused_with_both_lists(
    tmp_path: Path, names: dict[int, str], classes: tuple[str, ...], said: str
) -> None:
    with pytest.raises(DataError, match=said):
        opened(tmp_path, classifier(tmp_path, names), rows(tmp_path, *classes))


def test_a_model_without_a_head_takes_the_classes_of_the_data(tmp_path: Path) -> None:
    model = saved(BertModel(BertConfig(**SMALL)), tmp_path)
    assert head_classes(AutoConfig.from_pretrained(model), "classification") == ()
    bench = opened(tmp_path, model, rows(tmp_path, "a", "b", "c"))
    assert bench.model.config.id2label == {0: "a", 1: "b", 2: "c"}


@pytest.mark.parametrize("kind", ["regression", "multi_label_classification"])
def test_a_head_of_another_kind_can_be_retrained(tmp_path: Path, kind: str) -> None:
    model = classifier(tmp_path, {0: "no", 1: "yes"}, problem_type=kind)
    bench = opened(tmp_path, model, rows(tmp_path, "no", "yes"))
    summary = drain(Recover(epochs=1, batch_size=4).on(bench))
    assert summary.counts["epochs"] == 1
    assert bench.model.config.problem_type == "single_label_classification"


# -- padding -------------------------------------------------------------------------------------


def llama() -> Any:
    torch.manual_seed(0)
    made = LlamaConfig(**{**SMALL, "pad_token_id": None, "initializer_range": 0.3}, num_labels=2)
    return LlamaForSequenceClassification(made)


def gpt2() -> Any:
    torch.manual_seed(0)
    small = {"n_embd": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.3}
    made = GPT2Config(vocab_size=SMALL["vocab_size"], num_labels=2, pad_token_id=7, **small)
    return GPT2ForSequenceClassification(made)


@pytest.mark.parametrize("made", [llama, gpt2])
@pytest.mark.parametrize("special", [{}, {"pad_token": None}])
def test_a_decoders_loss_does_not_depend_on_the_batch_size(
    tmp_path: Path, made: Any, special: dict[str, Any]
) -> None:
    model, data = saved(made(), tmp_path, **special), rows(tmp_path, "no", "yes")
    losses = [
        measure_all(opened(tmp_path, model, data, size), ["loss"], "search")["loss"]
        for size in (1, 4, 16)
    ]
    assert losses[1:] == pytest.approx([losses[0]] * 2, rel=1e-5)


def test_a_decoder_without_a_padding_token_is_retrained(tmp_path: Path) -> None:
    model = saved(llama(), tmp_path, pad_token=None)
    bench = opened(tmp_path, model, rows(tmp_path, "no", "yes"))
    assert bench.model.config.pad_token_id == bench.processor.eos_token_id
    assert drain(Recover(epochs=1, batch_size=4).on(bench)).counts["epochs_run"] == 1
