"""A small search that really ran: a language model of four blocks, on data made up on the spot."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from optuna.samplers import RandomSampler
from optuna.trial import FixedTrial
from transformers import LlamaConfig, LlamaForCausalLM

from search.study.load import parse_study
from search.study.space import load_space
from search.study.starting_points import read_point
from tests.support.journals import Sample, record
from tests.support.toys import bytes_tokenizer, jsonl
from trainables.bench.survey import gather
from trainables.stage import drain
from trainables.trial import open_bench, run_stages

TOML = """
name = "tiny"
[space]
name = "omission_wanda"
max_skip = 2
[model]
id = "{model}"
[data]
dataset = "{data}"
task = "language-modelling"
max_length = 24
batch_size = 2
[data.items]
calibration = 2
train = 1
search = 4
held_out = 3
[objectives]
perplexity = "min"
nonzero_parameters = "min"
[constraints]
perplexity = "<= 150% of baseline"
[budget]
trials = 3
"""
POINTS = (
    {"omission.skip": [2], "wanda.percent": 20},
    {"omission.skip": [], "wanda.percent": 50},
)


def search_tiny(folder: Path) -> None:
    """Make the model `model`, the data `rows.jsonl`, and the journal of a search in `runs`: two
    trials and a failure."""
    save_llama(folder / "model", 4)
    (folder / "model" / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A model\n")
    rows = [{"text": f"{i} was {i * i} and then {i + 1}"} for i in range(60)]
    data = jsonl(folder / "rows.jsonl", rows)
    text = TOML.format(model=folder / "model", data=data)
    _search(folder, text)


def save_llama(folder: Path, blocks: int) -> None:
    """A language model with a tokenizer of bytes."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2}
    torch.manual_seed(blocks)
    config = LlamaConfig(vocab_size=259, num_hidden_layers=blocks, pad_token_id=0, **sizes)
    LlamaForCausalLM(config).save_pretrained(folder)
    bytes_tokenizer().save_pretrained(folder)


def _search(folder: Path, text: str) -> None:
    made = Sample(folder / "runs", parse_study(text, "tiny.toml"))
    bench, space = (
        open_bench(made.study.bench_spec(made.store.cache)),
        load_space(made.study.space),
    )
    facts, journal = gather(bench, space), made.journal

    def ask(trial: Any) -> Any:
        return space.stages(trial, facts)

    uid = journal.hand_out(None).uid
    journal.settle(0, record(uid, 0, {}) | _trial(bench, [], 0) | {"facts": asdict(facts)})
    journal.begin(RandomSampler(seed=1), [read_point(point, ask, "first") for point in POINTS])
    for number in (1, 2):
        stages = ask(FixedTrial(journal.hand_out(ask).params))
        journal.settle(number, record("", number, {}) | _trial(bench, stages, number))
    journal.fail(journal.hand_out(ask).number, "out of memory")
    made.close()


def _trial(bench: Any, stages: Any, number: int) -> dict[str, Any]:
    return drain(run_stages(bench.fork(f"tiny/{number}"), stages))
