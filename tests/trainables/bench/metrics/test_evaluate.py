"""Metrics on tiny models, against numbers worked out another way."""

import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import datasets
import pytest
import torch
from torch.nn import functional as F
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
    T5Config,
    T5ForConditionalGeneration,
)

from tests.support.toys import bench, bytes_tokenizer, jsonl, word_tokenizer
from trainables.bench.assets.fetch import fetch
from trainables.bench.data.roles import Data, load_data
from trainables.bench.metrics import predictions as passes
from trainables.bench.metrics import text_scores
from trainables.bench.metrics.catalogue import METRIC_FACTS
from trainables.bench.metrics.evaluate import METRICS, load_metric, measure_all, measure_items
from trainables.core.errors import MetricError
from trainables.core.spec import DataSpec, Task
from trainables.core.types import IGNORED

FEW = {"calibration": 1, "train": 1, "search": 5, "held_out": 3}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def load(path: Path, task: str, rows: list[dict[str, Any]], tokenizer: Any, **how: Any) -> Data:
    given = {"items": FEW, "max_length": 24, "batch_size": 2}
    spec = DataSpec.model_validate(
        {"dataset": jsonl(path / "rows.jsonl", rows), "task": task, **given}
    )
    return load_data(spec, tokenizer, 0, **how)


def llama(vocabulary: int = 259) -> PreTrainedModel:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=vocabulary, num_hidden_layers=2, pad_token_id=0, **sizes)
    return LlamaForCausalLM(config).eval()


@pytest.fixture
def text(tmp_path: Path) -> Data:
    rows = [{"text": f"{i} was {i * i} and then {i + 1}"} for i in range(60)]
    return load(tmp_path, "language-modelling", rows, bytes_tokenizer())


@pytest.fixture
def asked(tmp_path: Path) -> Data:
    rows = [
        {
            "prompt": f"{'go on ' * (i % 3)}{i}",
            "choices": ["a", "bb c", "ddd"][: 2 + i % 2],
            "answer": i % 2,
        }
        for i in range(40)
    ]
    return load(tmp_path, "multiple-choice", rows, bytes_tokenizer(bos=True))


@pytest.fixture
def sorted_by_topic(tmp_path: Path) -> Data:
    rows = [{"text": f"x{i % 10} {i}", "label": "abc"[i % 3]} for i in range(40)]
    return load(tmp_path, "classification", rows, word_tokenizer())


def test_perplexity_is_the_models_own_loss_exponentiated(text: Data) -> None:
    model = llama()
    with torch.no_grad():
        losses = [float(model(**batch).loss) for batch in text.batches("search")]
    sizes = [len(batch["labels"]) for batch in text.batches("search")]
    mean = sum(loss * size for loss, size in zip(losses, sizes, strict=True)) / sum(sizes)
    found = measure_all(bench(model, text), ["perplexity", "loss"], "search")
    assert found["loss"] == pytest.approx(mean, rel=1e-6)
    assert found["perplexity"] == pytest.approx(math.exp(mean), rel=1e-6)


def test_numbers_are_made_of_what_items_scored(
    text: Data, asked: Data, sorted_by_topic: Data
) -> None:
    for data, names in (
        (text, ["perplexity", "loss"]),
        (asked, ["accuracy", "accuracy_norm"]),
        (sorted_by_topic, ["accuracy", "macro_f1", "loss"]),
    ):
        given = bench(bert() if data is sorted_by_topic else llama(), data)
        values, found = measure_all(given, names, "search"), measure_items(given, names, "search")
        for name in names:
            assert found[name].scores is not None
            assert len(found[name].scores) == len(data.items("search"))
            assert found[name].scores.total() == values[name]


def test_batches_looked_at_in_any_order_give_the_same_whole(
    text: Data, asked: Data, sorted_by_topic: Data
) -> None:
    for data, name in ((text, "perplexity"), (asked, "accuracy_norm"), (sorted_by_topic, "loss")):
        given = bench(bert() if data is sorted_by_topic else llama(), data)
        made = passes.Evaluation(given, "search")
        whole = METRICS[name](made)
        parts = passes.Evaluation(given, "search")
        parts.look_at([2])
        assert len(METRICS[name](parts)) == len(parts.items) == 1
        parts.look_at([2, 0])
        seen = METRICS[name](parts)
        assert seen.total() == whole.take([0, 1, 4]).total()
        parts.look_at(None)
        for column, values in METRICS[name](parts).columns.items():
            assert (values == whole.columns[column]).all()


def test_slices_do_not_change_a_loss(text: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    model = llama()
    whole = measure_all(bench(model, text), ["loss"], "search")
    monkeypatch.setattr(passes, "SLICE", 5)
    assert measure_all(bench(model, text), ["loss"], "search") == whole


def test_losses_of_half_precision_models_are_taken_in_float32(text: Data) -> None:
    model = llama().bfloat16()
    batch = text.batches("search")[0]
    with torch.no_grad():
        logits = model(batch["input_ids"]).logits[:, :-1].float()
    wanted = F.cross_entropy(logits.flatten(0, 1), batch["labels"][:, 1:].flatten())
    summed, count = passes.token_losses(model, batch)
    assert float(summed.sum() / count.sum()) == pytest.approx(float(wanted), rel=1e-6)


def test_a_pass_is_made_once_for_all_metrics(
    text: Data, asked: Data, sorted_by_topic: Data
) -> None:
    for data, names in (
        (text, ["perplexity", "loss", "evaluation_seconds"]),
        (asked, ["accuracy", "accuracy_norm"]),
        (sorted_by_topic, ["evaluation_seconds", "accuracy", "macro_f1", "loss"]),
    ):
        model = bert() if data is sorted_by_topic else llama()
        calls: list[int] = []
        model.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        found = measure_all(bench(model, data), names, "search")
        assert list(found) == names
        warm = "evaluation_seconds" in names
        assert len(calls) == len(data.batches("search")) + warm


def bert(labels: int = 3) -> PreTrainedModel:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2}
    config = BertConfig(vocab_size=80, num_hidden_layers=2, num_labels=labels, **sizes)
    return BertForSequenceClassification(config).eval()


def test_accuracy_and_f1_agree_with_scikit_learn(sorted_by_topic: Data) -> None:
    from sklearn.metrics import accuracy_score, f1_score

    model = bert()
    predicted: list[int] = []
    with torch.no_grad():
        for batch in sorted_by_topic.batches("search"):
            predicted += model(**batch).logits.argmax(-1).tolist()
    wanted = [item.label for item in sorted_by_topic.items("search")]
    found = measure_all(bench(model, sorted_by_topic), ["accuracy", "macro_f1"], "search")
    assert found["accuracy"] == accuracy_score(wanted, predicted)
    assert found["macro_f1"] == pytest.approx(f1_score(wanted, predicted, average="macro"))


def alone(model: PreTrainedModel, tokenizer: Any, prompt: str, choice: str) -> float:
    """The choice's log-likelihood, token by token, without a batch."""
    start = tokenizer(prompt)["input_ids"]
    ids = tokenizer(choice, add_special_tokens=False)["input_ids"]
    total = 0.0
    for token in ids:
        with torch.no_grad():
            total += float(model(torch.tensor([start])).logits[0, -1].log_softmax(-1)[token])
        start = [*start, token]
    return total


def test_choices_score_as_each_of_them_alone(asked: Data) -> None:
    model, tokenizer = llama(), bytes_tokenizer(bos=True)
    model.lm_head.weight.data *= 20
    items = asked.items("search")
    wanted = [[alone(model, tokenizer, x.prompt, choice) for choice in x.choices] for x in items]
    for scores, mine in zip(
        passes.Evaluation(bench(model, asked), "search").choices, wanted, strict=True
    ):
        assert scores.tolist() == pytest.approx(mine, rel=1e-5)

    best = [max(range(len(row)), key=row.__getitem__) for row in wanted]
    normed = [
        max(range(len(row)), key=lambda i, r=row, x=x: r[i] / len(x.choices[i].strip()))
        for row, x in zip(wanted, items, strict=True)
    ]
    answers = [item.answer for item in items]
    found = measure_all(bench(model, asked), ["accuracy", "accuracy_norm"], "search")
    assert found["accuracy"] == sum(a == b for a, b in zip(best, answers, strict=True)) / 5
    assert found["accuracy_norm"] == sum(a == b for a, b in zip(normed, answers, strict=True)) / 5
    assert best != normed


def test_images_are_classified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYDUCE_ASSETS", str(tmp_path / "assets"))
    spec = DataSpec.model_validate(
        {"dataset": "asset:digits", "task": "image-classification", "items": FEW}
    )
    data = load_data(spec, None, 0)
    config = ResNetConfig(
        num_channels=1, embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=10
    )
    model = ResNetForImageClassification(config)
    found = measure_all(bench(model, data), ["accuracy", "loss", "macro_f1"], "search")
    assert 0 <= found["accuracy"] <= 1 and found["loss"] > 0
    assert model.training  # as it was


def pairs(path: Path, tokenizer: Any, encoder_decoder: bool) -> Data:
    rows = [{"source": f"the cat x{i % 10} {i}", "target": "the dog sat on mat"} for i in range(40)]
    return load(path, "generation", rows, tokenizer, encoder_decoder=encoder_decoder)


def test_an_encoder_decoder_writes_what_it_was_taught(tmp_path: Path) -> None:
    tokenizer = word_tokenizer()
    data = pairs(tmp_path, tokenizer, True)
    torch.manual_seed(0)
    sizes = {"d_model": 32, "d_kv": 16, "num_heads": 2, "d_ff": 64, "num_layers": 1}
    config = T5Config(vocab_size=80, decoder_start_token_id=0, eos_token_id=2, **sizes)
    model = T5ForConditionalGeneration(config)
    names = ["exact_match", "bleu", "rouge_l", "meteor", "perplexity"]
    before = measure_all(bench(model, data, tokenizer), names, "search")
    _teach(model, data, steps=60)
    after = measure_all(bench(model, data, tokenizer), names, "search")
    assert before["exact_match"] == 0 and after["exact_match"] == 1
    assert before["bleu"] < 5 and after["bleu"] == pytest.approx(100)
    assert after["rouge_l"] == 1 and after["meteor"] > 0.95
    assert after["perplexity"] < 1.3 < before["perplexity"]


def _teach(model: PreTrainedModel, data: Data, steps: int) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model.train()
    for step in range(steps):
        batches = data.batches("search")
        model(**batches[step % len(batches)]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


def test_a_decoder_goes_on_from_sources_of_any_length(tmp_path: Path) -> None:
    tokenizer = bytes_tokenizer(bos=True)
    rows = [{"source": f"{'very ' * (i % 3)}{i}:", "target": f"{i % 10}"} for i in range(40)]
    data = load(tmp_path, "generation", rows, tokenizer, encoder_decoder=False)
    model = llama()
    texts = passes.Evaluation(bench(model, data, tokenizer), "search").texts
    longest = max(len(f" {item.target}") + 2 for item in data.items("search"))
    for item, text in zip(data.items("search"), texts, strict=True):
        ids = tokenizer(item.source, return_tensors="pt")
        said = model.generate(**ids, max_new_tokens=longest, do_sample=False, pad_token_id=0)
        new = said[0, ids["input_ids"].shape[1] :]
        assert text == tokenizer.decode(new, skip_special_tokens=True)


def test_text_scores_on_texts_scored_by_hand() -> None:
    same = ["the cat sat on the mat"]
    assert text_scores.bleu(same, same).total() == pytest.approx(100)
    assert text_scores.rouge_l(same, same).total() == 1
    assert text_scores.exact_match(same, same).total() == 1
    assert text_scores.rouge_l(["the cat ran"], ["the cat sat"]).total() == pytest.approx(2 / 3)
    assert text_scores.meteor(["dogs"], ["dog"]).total() == pytest.approx(0.5)  # a stem, one chunk
    assert text_scores.meteor(["nothing"], ["dog"]).total() == 0


def test_text_scores_read_any_script() -> None:
    assert text_scores.rouge_l(["кошка спит"], ["кошка ест"]).total() == pytest.approx(0.5)
    assert text_scores.rouge_l(["貓 睡"], ["貓 睡"]).total() == 1


def test_a_model_gone_wrong_is_named_and_fails(
    text: Data, asked: Data, sorted_by_topic: Data
) -> None:
    model = llama()
    model.model.norm.weight.data.fill_(math.nan)
    for data, names, says in (
        (text, ["perplexity"], "perplexity is nan"),
        (asked, ["accuracy"], "log-likelihood is nan"),
    ):
        with pytest.raises(MetricError, match=says):
            measure_all(bench(model, data), names, "search")
    wild = bert()
    wild.classifier.bias.data.fill_(math.inf)
    with pytest.raises(MetricError, match="loss is nan"):
        measure_all(bench(wild, sorted_by_topic), ["accuracy"], "search")


def test_a_loss_too_large_to_exponentiate_is_no_crash(text: Data) -> None:
    model = llama()
    model.lm_head.weight.data *= 1e6
    with pytest.raises(MetricError, match="perplexity is inf"):
        measure_all(bench(model, text), ["perplexity"], "search")


@pytest.fixture
def my_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "my_scores.py").write_text(
        "def depth(bench):\n    return len(bench.model.model.layers)\n\n"
        "def each(bench):\n    return [1.0, 0.0, 0.0, 0.0, 1.0]\n\n"
        "def broken(bench):\n    return float('nan')\n\nnumber = 3\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("my_scores", None)


def test_a_users_own_metric_is_given_the_bench(text: Data, my_scores: None) -> None:
    own = {name: f"my_scores:{name}" for name in ("depth", "broken", "each")}
    given = bench(llama(), text, **own)
    found = measure_items(given, ["depth", "each"], "search")
    assert found["each"].value == 0.4 and found["depth"].scores is None
    assert found["each"].scores is not None and len(found["each"].scores) == 5
    assert measure_all(given, ["depth", "loss"], "search")["depth"] == 2.0
    with pytest.raises(MetricError, match="broken is nan"):
        measure_all(given, ["broken"], "search")


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ("no_such_package:f", "No module named 'no_such_package'"),
        ("my_scores:deep", "has no attribute 'deep'"),
        ("my_scores:number", "is a int, not a function"),
        (":depth", "It must read"),
    ],
)
def test_a_metric_that_cannot_be_imported_says_why(my_scores: None, where: str, says: str) -> None:
    with pytest.raises(MetricError, match=says):
        load_metric(where)


def test_a_metric_must_exist_and_fit_the_task(text: Data) -> None:
    with pytest.raises(
        MetricError, match=r'no metric "perplexiti" \(did you mean "perplexity"\?\)'
    ):
        measure_all(bench(llama(), text), ["perplexiti"], "search")
    with pytest.raises(MetricError, match=r"accuracy is for .* not for language-modelling"):
        measure_all(bench(llama(), text), ["accuracy"], "search")


def test_the_table_of_metrics_is_the_metrics() -> None:
    assert tuple(METRICS) == tuple(METRIC_FACTS)
    for name, facts in METRIC_FACTS.items():
        assert facts.low < facts.high and facts.meaning, name
        assert facts.tasks <= set(get_args(Task)), name


def test_labels_of_padding_are_ignored(tmp_path: Path) -> None:
    batch = pairs(tmp_path, bytes_tokenizer(), False).batches("search")[0]
    model = llama()
    summed, count = passes.token_losses(model, batch)
    assert count.tolist() == (batch["labels"] != IGNORED).sum(1).tolist()
    with torch.no_grad():
        assert float(summed.sum() / count.sum()) == pytest.approx(float(model(**batch).loss))


@pytest.mark.parametrize(
    "module", ["bench.metrics.catalogue", "bench.assets.catalogue", "core.spec"]
)
def test_what_checks_a_study_file_needs_no_torch(module: str) -> None:
    code = f"import sys, trainables.{module}; print('torch' in sys.modules)"
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, capture_output=True, text=True).stdout.strip() == "False"


@pytest.mark.assets
@pytest.mark.parametrize(
    ("fields", "metric", "low", "high"),
    [
        ({"dataset": "asset:bbc-news", "task": "language-modelling"}, "perplexity", 25, 45),
        (
            {"dataset": "asset:subject-verb-agreement", "subset": "simple"}
            | {"task": "multiple-choice"},
            "accuracy",
            0.85,
            1,
        ),
    ],
)
def test_a_real_model_on_real_data(
    fields: dict[str, Any], metric: str, low: float, high: float
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    place = fetch("smollm2-135m")
    tokenizer = AutoTokenizer.from_pretrained(place)
    model = AutoModelForCausalLM.from_pretrained(place, dtype=torch.bfloat16)
    counts = {"calibration": 1, "search": 8 if metric == "perplexity" else 40, "held_out": 1}
    data = load_data(DataSpec.model_validate({**fields, "items": counts}), tokenizer, 0)
    assert low < measure_all(bench(model, data), [metric], "search")[metric] <= high
