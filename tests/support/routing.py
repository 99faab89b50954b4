"""A routing study small enough for tests: tiny models from configs, made-up questions."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from search.engine.dispatch import Tell
from search.journal.store import Store
from search.ledger.mirror import open_client, tracking_uri
from search.routing.commands import app
from search.routing.stages import Route, run_route
from search.study.routing import load_route
from tests.support.toys import bytes_tokenizer
from trainables.routing.answers import Answers
from trainables.routing.spec import RouteSpec

COLOURS = ["red", "blue", "green"]
TEXT = """
name = "tiny"
seed = 1
folder = "{folder}"
[model]
id = "{model}"
[sets]
budget = 2
wanted = 3
losses = ["tl", "tld"]
[dataset]
shard = 8
batch_size = 4
[router]
encoder = "{encoder}"
epochs = 2
warmup = 2
lr = 1e-3
batch_size = 8
max_length = 64
[evaluation]
prompts = 2
new_tokens = 2
[resources]
workers = 0
[tasks.colours]
dataset = "{data}/colours.jsonl"
max_length = 96
items = {{ calibration = 4, train = 20, search = 1, held_out = 6 }}
[tasks.sums]
dataset = "{data}/sums.jsonl"
max_length = 96
normalised = true
items = {{ calibration = 4, train = 12, search = 1, held_out = 6 }}
[tasks.unseen]
dataset = "{data}/unseen.jsonl"
max_length = 96
routed = false
items = {{ calibration = 1, train = 1, search = 1, held_out = 5 }}
"""


def write_study(folder: Path, storage: Path) -> Path:
    """Models, data and the study's file, in `folder`; results in `storage`."""
    folder.mkdir(exist_ok=True)
    if not (folder / "model").exists():
        _models(folder)
        _questions(folder)
    file = folder / f"study-{storage.name}.toml"
    places = {"model": folder / "model", "encoder": folder / "encoder", "data": folder}
    file.write_text(TEXT.format(folder=storage, **places))
    return file


def study(folder: Path, storage: Path) -> RouteSpec:
    """The same, read."""
    return load_route(write_study(folder, storage))


def ran(spec: RouteSpec, tell: Tell = lambda text: None) -> Route:
    """The study after all its stages, which are still in memory."""
    route = run_route(spec, tell)
    assert route.evaluation
    return route


def answers(tasks: str, right: Sequence[Sequence[int]]) -> Answers:
    """Items of tasks named by letters, and which sets are right: two choices of one token each."""
    records = [
        {
            "item": f"{task}/{number}",
            "task": task,
            "prompt": f"{task} {number}",
            "answer": 0,
            "likelihood": [-1.0 if hit else -2.0 for hit in hits],
            "judged": [[-1.0, -2.0] if hit else [-2.0, -1.0] for hit in hits],
        }
        for number, (task, hits) in enumerate(zip(tasks, right, strict=True))
    ]
    return Answers.of(records)


def runs_of(store: Store) -> dict[str, Any]:
    """A study's runs in the ledger by name; each is there once."""
    client = open_client(tracking_uri(store))
    experiment = client.get_experiment_by_name("rayduce").experiment_id
    found = client.search_runs([experiment], f"tags.study = '{store.study}'")
    names = [str(run.info.run_name) for run in found]
    assert len({*names}) == len(names), names
    return dict(zip(names, found, strict=True))


def invoke(command: str, file: Path, whole: Route) -> str:
    """What a command prints, run on a study that ran already."""
    storage = str(whole.root.parent)
    found = CliRunner().invoke(app, [command, str(file), "--storage", storage])
    if found.exception is not None:
        raise found.exception
    return found.output


def _models(folder: Path) -> None:
    torch.manual_seed(0)
    tokenizer = bytes_tokenizer()
    size = len(tokenizer)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=size, num_hidden_layers=6, **small))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)  # so that blocks matter
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    encoder = BertForSequenceClassification(
        BertConfig(vocab_size=size, num_hidden_layers=1, max_position_embeddings=64, **small)
    )
    for name, each in (("model", model), ("encoder", encoder)):
        each.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)


def _questions(folder: Path) -> None:
    rows = {
        "colours": [
            {"prompt": f"Box {i} is {COLOURS[i % 3]}:", "choices": COLOURS, "answer": i % 3}
            for i in range(40)
        ],
        "sums": [
            {"prompt": f"{i} + 1 =", "choices": [str(i + 1), str(i + 22)], "answer": 0}
            for i in range(40)
        ],
        "unseen": [
            {"prompt": f"Not {i} but", "choices": [str(i), "no"], "answer": 1} for i in range(20)
        ],
    }
    for name, found in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
