"""What a model writes: the same in any company, ended where an answer ends; and what it costs."""

from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from tests.support.families import DECODERS, build, kind
from tests.support.toys import bench, bytes_tokenizer, chat_tokenizer, jsonl, word_tokenizer
from trainables.bench.data.roles import Data, load_data
from trainables.bench.metrics import cost
from trainables.bench.metrics.catalogue import METRIC_FACTS
from trainables.bench.metrics.evaluate import measure_all
from trainables.bench.metrics.generate import Writer, settings
from trainables.bench.metrics.predictions import Evaluation
from trainables.core.spec import DataSpec
from trainables.core.types import Writing

FEW = {"calibration": 1, "train": 1, "search": 6, "held_out": 1}
WRITERS = [*DECODERS, "opt", "phi3", "smollm3", "t5", "bart", "mbart", "umt5"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def load(path: Path, model: PreTrainedModel, tokenizer: Any, **spec: Any) -> Data:
    rows = [
        {"source": f"{'the cat ' * (i % 4)}x{i % 10} who {'sat ' * (i % 3)}?", "target": "yes " * 6}
        for i in range(40)
    ]
    given = {"items": FEW, "max_length": 40, "group": "none", "task": "generation"} | spec
    known = DataSpec.model_validate({"dataset": jsonl(path / "rows.jsonl", rows), **given})
    apart = bool(model.config.is_encoder_decoder)
    return load_data(known, tokenizer, 0, encoder_decoder=apart)


def model_of(name: str) -> PreTrainedModel:
    model = build(name) if name in (*DECODERS, "t5") else kind(name)
    if name in ("bart", "mbart"):  # whose tied head says again what it reads
        model.lm_head.weight = torch.nn.Parameter(torch.randn(model.lm_head.weight.shape))
    return model


def written(path: Path, model: PreTrainedModel, tokenizer: Any, **spec: Any) -> list[str]:
    data = load(path, model, tokenizer, **spec)
    return Evaluation(bench(model, data, tokenizer), "search").texts


@pytest.mark.parametrize("name", WRITERS)
def test_a_text_does_not_depend_on_the_rows_beside_it(tmp_path: Path, name: str) -> None:
    model, tokenizer = model_of(name), word_tokenizer()
    alone = written(tmp_path, model, tokenizer, batch_size=1)
    for size in (2, 6):
        assert written(tmp_path, model, tokenizer, batch_size=size) == alone
    assert len(set(alone)) > 1


def test_a_models_own_taste_in_decoding_is_left_out(tmp_path: Path) -> None:
    model, tokenizer = build("llama"), word_tokenizer()
    plain = written(tmp_path, model, tokenizer, batch_size=6)
    for name, value in (
        ("repetition_penalty", 5.0),
        ("no_repeat_ngram_size", 1),
        ("do_sample", True),
        ("num_beams", 3),
        ("max_length", 3),
    ):
        setattr(model.generation_config, name, value)
    assert written(tmp_path, model, tokenizer, batch_size=6) == plain


def test_a_text_ends_before_what_it_is_to_stop_at(tmp_path: Path) -> None:
    model, tokenizer = build("llama"), word_tokenizer()
    whole = written(tmp_path, model, tokenizer)
    stop = next(text.split()[1] for text in whole if len(text.split()) > 4)
    runs: list[int] = []
    model.register_forward_hook(lambda *_: runs.append(1))
    cut = written(tmp_path, model, tokenizer, stop=[f" {stop}"])
    assert cut == [text.partition(f" {stop}")[0] for text in whole] != whole
    whole_runs = 8  # the longest target has seven tokens, and an end
    assert len(runs) <= whole_runs
    few = written(tmp_path, model, tokenizer, max_new_tokens=3)
    assert all(len(text.split()) <= 3 for text in few) and few != whole
    assert all(text.startswith(start) for text, start in zip(whole, few, strict=True))


def test_the_end_of_a_turn_ends_an_answer(tmp_path: Path) -> None:
    tokenizer = chat_tokenizer()
    model = build("llama")
    model.resize_token_embeddings(len(tokenizer))
    data = load(tmp_path, model, tokenizer, max_length=90)
    (end,) = tokenizer.convert_tokens_to_ids(["</turn>"])
    assert data.writing.ending == (end,)
    known = settings(model, tokenizer, data.writing, 5)
    assert known.eos_token_id == sorted({end, 2}) and known.pad_token_id == 0
    plain = load(tmp_path, model, tokenizer, chat=False, max_length=90)
    assert plain.writing.ending == (2,)


def test_a_response_is_timed_alone_and_warmed_up(tmp_path: Path) -> None:
    for name in ("llama", "t5"):
        model, tokenizer = build(name), word_tokenizer()
        data = load(tmp_path, model, tokenizer, items={**FEW, "search": 30}, max_new_tokens=3)
        shapes: list[tuple[int, ...]] = []
        first = model.get_encoder() if name == "t5" else model.model
        hook = first.register_forward_hook(
            lambda _, __, kept, seen=shapes: seen.append(tuple(kept[0].shape[:2])),
            with_kwargs=False,
        )
        made = Evaluation(bench(model, data, tokenizer), "search")
        times = made.response_times
        hook.remove()
        assert len(times) == 20 and all(time > 0 for time in times)
        assert len(Evaluation(made.bench, "held_out").response_times) == FEW["held_out"]
        assert {rows for rows, _ in shapes} == {1}
        if name == "llama":  # a prompt, then one token at a time: the cache has the rest
            prompts = [length for _, length in shapes if length > 1]
            assert len(prompts) == 21
            assert max(prompts) == max(int(b["attention_mask"].sum()) for b in singles(data, made))
        found = measure_all(made.bench, ["response_ms", "response_ms_p95"], "search")
        assert 0 < found["response_ms"] <= found["response_ms_p95"]
    assert METRIC_FACTS["response_ms"].timed and METRIC_FACTS["response_ms_p95"].timed


def singles(data: Data, made: Evaluation) -> list[dict[str, torch.Tensor]]:
    from trainables.bench.metrics.generate import _single

    return list(_single(made.model, data.batches("search")))


def test_memory_of_writing_counts_the_model_and_what_it_keeps(tmp_path: Path) -> None:
    model, tokenizer = build("llama"), word_tokenizer()
    found = {}
    for longest in (2, 50):
        data = load(tmp_path, model, tokenizer, batch_size=6, max_new_tokens=longest)
        given = bench(model, data, tokenizer)
        found[longest] = measure_all(given, ["peak_memory"], "search")["peak_memory"]
        forward = cost.peak_memory(model, data.batches("search")[0])
    own = cost.own_bytes(model)
    assert own < found[2] < found[50] < own + 50 * forward
    fewer = measure_all(given, ["peak_memory"], "held_out")["peak_memory"]
    assert own < fewer < found[50], "of one prompt"
    model.model.layers = model.model.layers[:2]
    model.config.num_hidden_layers = 2
    given = bench(model, data, tokenizer)
    assert measure_all(given, ["peak_memory"], "search")["peak_memory"] < found[50]


def test_a_writer_that_has_no_end_writes_to_its_limit(tmp_path: Path) -> None:
    model, tokenizer = build("gpt2"), bytes_tokenizer()
    model.generation_config.eos_token_id = model.config.eos_token_id = None
    tokenizer.eos_token = None
    config = settings(model, tokenizer, Writing(), 7)
    assert config.eos_token_id is None and config.pad_token_id == 0
    batch = {
        "input_ids": torch.tensor([[5, 6, 7]]),
        "attention_mask": torch.ones(1, 3, dtype=torch.long),
        "labels": torch.full((1, 3), -100),
    }
    ids = Writer(model, tokenizer, Writing(), 7)._generated(batch, 7)
    assert ids.shape == (1, 7)


@pytest.mark.assets
@pytest.mark.parametrize(("name", "least"), [("smollm2-135m", 0.0), ("gemma3-270m", 0.2)])
def test_real_models_answer_real_questions_the_same_in_any_batch(name: str, least: float) -> None:
    from trainables.bench.assets.fetch import fetch
    from trainables.bench.metrics import text_scores

    folder = fetch(name)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    given = {
        "dataset": "asset:squad",
        "task": "generation",
        "prompt": "{context}\nQuestion: {question}\nAnswer:",
        "columns": {"target": "answer"},
        "chat": False,
        "stop": ["\n"],
        "rows": 400,
        "max_length": 160,
        "max_new_tokens": 8,
        "items": {**FEW, "search": 12},
    }
    found = []
    for size in (1, 6):
        spec = DataSpec.model_validate({**given, "batch_size": size})
        data = load_data(spec, tokenizer, 0, encoder_decoder=False)
        made = Evaluation(bench(model, data, tokenizer), "search")
        found.append(made.texts)
    assert found[0] == found[1]
    assert text_scores.rouge_l(found[0], made.references).total() >= least
