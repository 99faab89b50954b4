"""A search for omission sets as a stage of a trial: what it finds, and what it shares."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.support.families import batches, build
from trainables.bench.bench import Bench
from trainables.bench.data.prompts import Question
from trainables.core.cache import Cache, digest
from trainables.core.errors import FieldError, PlanError
from trainables.core.lineage import Lineage
from trainables.core.spec import BenchSpec, DataSpec, ModelSpec, Role, Task
from trainables.core.types import Batch
from trainables.omission import Omission, SearchedOmission
from trainables.omission.evaluator import alone
from trainables.omission.loss_log import Memo
from trainables.omission.losses import kl, ppl
from trainables.stage import Reading, Removed, Subject, drain


class TextData:
    """Running text, or questions, for every role."""

    def __init__(self, task: Task) -> None:
        self.task: Task = task

    def batches(self, role: Role) -> list[Batch]:
        return batches("llama")

    def items(self, role: Role) -> list[Question]:
        return [Question("ab", (" c", " de"), 1), Question("b", (" a", " fg"), 0)]

    def fingerprint(self, role: Role) -> str:
        return digest(self.task, role)


def a_bench(folder: Path, task: Task = "language-modelling", *, naive: bool = False) -> Bench:
    model = build("llama")
    spec = BenchSpec(
        model=ModelSpec(id="tiny"),
        data=DataSpec(dataset="tiny", task=task),
        objectives=("perplexity",),
        cache=str(folder),
        naive=naive,
    )
    data: Any = TextData(task)
    speaker = SimpleNamespace(bos_token_id=1, eos_token_id=2)
    speaker_of: Any = lambda text, **_: {"input_ids": [3 + ord(c) % 40 for c in text]}  # noqa: E731
    processor: Any = type(
        "Speaker", (), {**vars(speaker), "__call__": lambda _, *a, **k: speaker_of(*a)}
    )()
    device = torch.device("cpu")
    subject = Subject(model, Lineage("tiny"), Reading(processor, data))
    return Bench(spec, subject, device, Cache(folder))


@pytest.mark.parametrize("loss", ["ppl", "kl"])
def test_greedy_takes_the_cheapest_unit_each_time(tmp_path: Path, loss: Any) -> None:
    bench = a_bench(tmp_path)
    summary = drain(SearchedOmission(1, loss).on(bench))
    judged = {"ppl": ppl, "kl": kl}[loss](batches("llama"))
    inner = range(1, len(build("llama").model.layers) - 1)
    costs = dict(
        zip(inner, alone(build("llama"), judged, [(unit,) for unit in inner]), strict=True)
    )
    cheapest = min(costs, key=lambda unit: costs[unit])
    assert summary.effects == (Removed((cheapest,)),)
    assert summary.details["losses"] == [costs[cheapest]]
    assert len(bench.model.model.layers) == len(build("llama").model.layers) - 1


@pytest.mark.parametrize(
    "stage",
    [
        SearchedOmission(2),
        SearchedOmission(1, "kl", "evolve", generations=2, offspring=2),
        SearchedOmission(1, "ppl", "window"),
        SearchedOmission(1, "ppl", "influence"),
        SearchedOmission(1, "kl", "greedy", "ffn"),
    ],
    ids=lambda stage: f"{stage.by}-{stage.unit}",
)
def test_sharing_changes_nothing(tmp_path: Path, stage: SearchedOmission) -> None:
    found = [drain(stage.on(a_bench(tmp_path / str(n), naive=n))) for n in (False, True)]
    assert found[0] == found[1]


def test_the_same_set_is_the_same_model_whoever_chose_it(tmp_path: Path) -> None:
    bench, other = a_bench(tmp_path), a_bench(tmp_path)
    stage = SearchedOmission(2)
    summary = drain(stage.on(bench))
    chosen = Omission(tuple(summary.details["order"]))
    same = chosen.apply(other.model, {})
    assert bench.subject.after(stage, summary).lineage == other.subject.after(chosen, same).lineage


def test_a_larger_budget_pays_only_for_what_is_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[int] = []
    add = Memo.add

    def counting(self: Memo, losses: Any) -> None:
        measured.append(len(losses))
        add(self, losses)

    monkeypatch.setattr(Memo, "add", counting)
    drain(SearchedOmission(1).on(a_bench(tmp_path)))
    first = sum(measured)
    drain(SearchedOmission(1).on(a_bench(tmp_path)))
    assert sum(measured) == first > 0
    drain(SearchedOmission(2).on(a_bench(tmp_path)))
    assert first < sum(measured) < 3 * first


@pytest.mark.parametrize("loss", ["tl", "tld"])
def test_questions_have_losses_of_their_own(tmp_path: Path, loss: Any) -> None:
    bench = a_bench(tmp_path, "multiple-choice")
    assert len(drain(SearchedOmission(1, loss).on(bench)).effects) == 1


@pytest.mark.parametrize(
    ("task", "loss"), [("language-modelling", "tld"), ("multiple-choice", "ppl")]
)
def test_a_loss_of_another_task_is_refused(tmp_path: Path, task: Any, loss: Any) -> None:
    with pytest.raises(PlanError, match="allowed"):
        drain(SearchedOmission(1, loss).on(a_bench(tmp_path, task)))


def test_what_cannot_be_searched_is_refused() -> None:
    with pytest.raises(FieldError, match="budget"):
        SearchedOmission(0)
    with pytest.raises(FieldError, match="unit"):
        SearchedOmission(1, by="window", unit="ffn")


def test_every_removal_is_told(tmp_path: Path) -> None:
    running = SearchedOmission(2).on(a_bench(tmp_path))
    assert [step["removed"] for step in running] == [1.0, 2.0]
