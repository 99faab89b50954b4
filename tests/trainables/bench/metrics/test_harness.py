"""The harness on a resident model, with a task of a local file; skipped where it is not there."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.support.toys import HARNESS_TASK, bytes_tokenizer, harness_task, jsonl
from trainables.bench.data.roles import load_data
from trainables.bench.metrics.evaluate import measure_all
from trainables.bench.metrics.predictions import Evaluation
from trainables.core.errors import MetricError
from trainables.core.spec import DataSpec


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    return [
        {"goal": f"open {i} ", "sol1": "push " * (1 + i % 3), "sol2": f"sing {i}", "label": i % 2}
        for i in range(60)
    ]


def bench(folder: Path, rows: list[dict[str, Any]], harness: str | None) -> SimpleNamespace:
    torch.manual_seed(0)
    tokenizer = bytes_tokenizer()
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
        )
    ).eval()
    model.lm_head.weight.data *= 20
    given = {
        "dataset": jsonl(folder / "rows.jsonl", rows),
        "task": "multiple-choice",
        "prompts": "lm-eval",
        "group": "none",
        "items": {"calibration": 1, "train": 1, "search": 24, "held_out": 24},
        "harness": harness,
    }
    spec = DataSpec.model_validate(given)
    return SimpleNamespace(
        model=model,
        processor=tokenizer,
        subject=SimpleNamespace(lineage=None),
        data=load_data(spec, tokenizer, 0),
        device=torch.device("cpu"),
        spec=SimpleNamespace(metrics={}, data=spec, seed=0),
    )


def test_accuracies_are_those_of_the_same_questions(
    tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    pytest.importorskip("lm_eval")
    from trainables.bench.metrics.harness import _part

    made = bench(tmp_path, rows, harness_task(tmp_path, rows))
    for role in ("search", "held_out"):
        found = measure_all(made, ["acc", "acc_norm", "acc_stderr", "acc_norm_stderr"], role)
        part = _part(60, made.data.spec, role, "0 tiny_piqa")
        ours = _ours(made, [rows[at] for at in part])
        assert (found["acc"], found["acc_norm"]) == (ours["accuracy"], ours["accuracy_norm"])
        assert 0 < found["acc"] < 1 and found["acc"] != found["acc_norm"]
        share = found["acc"]
        assert found["acc_stderr"] == pytest.approx(math.sqrt(share * (1 - share) / 23))


def _ours(made: SimpleNamespace, rows: list[dict[str, Any]]) -> dict[str, float]:
    items = [made.data.adapter.item(row) for row in rows]
    batches = [made.data.adapter.batch([item], "search") for item in items]
    data = SimpleNamespace(
        task="multiple-choice",
        batches=lambda role: batches,
        by_batch=lambda role: [[item] for item in items],
    )
    whole = SimpleNamespace(**{**vars(made), "data": data})
    return measure_all(whole, ["accuracy", "accuracy_norm"], "search")


def test_likelihoods_are_those_of_our_own_passes(
    tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    pytest.importorskip("lm_eval")
    from lm_eval.api.instance import Instance

    from trainables.bench.metrics.harness import _Resident

    made = bench(tmp_path, rows, None)
    asked = made.data.items("search")
    resident = _Resident(made.model, made.processor, made.spec.data)
    for item, scores in zip(asked, Evaluation(made, "search").choices, strict=True):
        wanted = [
            Instance("loglikelihood", {}, (item.prompt, choice), 0) for choice in item.choices
        ]
        found = [score for score, _ in resident.loglikelihood(wanted)]
        assert found == pytest.approx(scores.tolist(), rel=1e-5)


def test_roles_see_other_questions_of_a_task() -> None:
    pytest.importorskip("lm_eval")
    from trainables.bench.metrics.harness import _part

    spec = DataSpec(dataset="x", task="multiple-choice")
    for count in (50, 300, 5000):
        held_out, search = (_part(count, spec, role, "0") for role in ("held_out", "search"))
        assert held_out and search and not set(held_out) & set(search)
        assert len(held_out) <= 256 and len(search) <= 128


@pytest.mark.parametrize(
    ("harness", "says"),
    [
        (None, r"acc and acc_norm need tasks; \[data\] harness"),
        ("arc_eazy", r'no task "arc_eazy" \(did you mean "arc_easy"\?\)'),
        ("none.yaml", "no file of a task"),
    ],
)
def test_tasks_that_are_not_there_are_named(
    tmp_path: Path,
    rows: list[dict[str, Any]],
    harness: str | None,
    says: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = pytest.importorskip("trainables.bench.metrics.harness")
    (tmp_path / "known.yaml").write_text(
        HARNESS_TASK.format(file="x").replace("tiny_piqa", "arc_easy")
    )
    known = module.TaskManager(include_path=str(tmp_path), include_defaults=False)
    monkeypatch.setattr(module, "TaskManager", lambda **_: known)  # to read all takes long
    with pytest.raises(MetricError, match=says):
        measure_all(bench(tmp_path, rows, harness), ["acc"], "search")
