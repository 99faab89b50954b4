"""The router's parts: split, targets, regret, and a training that can be interrupted."""

import json
import math
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    get_linear_schedule_with_warmup,
)

from tests.support.routing import write_study
from trainables.bench.training.loop import Training, train
from trainables.core.cache import Cache
from trainables.core.errors import ModelError, PlanError
from trainables.routing import router
from trainables.routing.answers import Answers
from trainables.routing.router import Router
from trainables.routing.spec import RouterSpec
from trainables.stage import drain


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    write_study(folder, folder)
    return folder / "encoder"


def examples(count: int, bad: float = 0.0) -> Answers:
    """Prompts whose first letter says which of two sets is better; some are harder than others.

    Args:
        bad: what stands for a likelihood that is no number, in every third item's second set.
    """
    records = []
    for i in range(count):
        hard, second = 5.0 * (i % 3), float(i % 2 - 1)
        likelihood = [-float(i % 2) - hard, bad if bad and i % 3 == 0 else second - hard]
        judged = [[one, -0.5 - hard] for one in likelihood]
        name = {"item": f"t/{i}", "task": "t", "prompt": f"{'ab'[i % 2] * 8} {i}", "answer": 0}
        records.append({**name, "likelihood": likelihood, "judged": judged})
    return Answers.of(records)


def settings(encoder: Path, **changed: object) -> RouterSpec:
    given = {"encoder": str(encoder), "epochs": 4, "lr": 3e-3, "warmup": 2, "batch_size": 8}
    return RouterSpec.model_validate({**given, "max_length": 32, **changed})


def trained(
    spec: RouterSpec, rows: Answers, folder: Path
) -> tuple[list[dict[str, float]], router.Report]:
    """What a training told, and its report; its cache lies in the folder too."""
    told: list[dict[str, float]] = []
    running = router.train(spec, rows, folder, Cache(folder / "cache"))
    while True:
        try:
            told.append(next(running))
        except StopIteration as end:
            return told, end.value


def test_training_learns_and_reports(encoder: Path, tmp_path: Path) -> None:
    spec = settings(encoder, centre=True, epochs=12, validation=0.25)
    steps, report = trained(spec, examples(80), tmp_path)
    assert steps[-1]["train_loss"] < steps[0]["train_loss"] / 4
    assert report.regret == 0 and report.accuracy == 1
    assert report.static_regret > 0 and report.static_accuracy < report.kept_accuracy == 1
    assert (report.items, report.validated) == (60, 20)
    again = Router.load(tmp_path)
    assert (again.static, again.margin) == (report.static, report.margin)
    assert again.choose(["aaaaaaaa 0", "bbbbbbbb 1"]) == [0, 1] and again.choose([]) == []
    assert not list(tmp_path.glob("cache/checkpoints/*"))
    assert trained(spec, examples(80), tmp_path) == (steps, report), "shared, and told again"


def test_an_interrupted_training_ends_with_the_same_weights(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = settings(encoder)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert len(trained(spec, examples(30), whole)[0]) == 4
    for _ in range(3):  # as if it were killed after an epoch
        running = router.train(spec, examples(30), parts, Cache(parts / "cache"))
        next(running)
        running.close()
    ran, epoch = [], Training.epoch
    monkeypatch.setattr(Training, "epoch", lambda self: ran.append(1) or epoch(self))
    assert [step["epoch"] for step in trained(spec, examples(30), parts)[0]] == [1, 2, 3, 4]
    assert len(ran) == 3, "the first lay in the checkpoint"
    one, other = (Router.load(folder).model.state_dict() for folder in (whole, parts))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_learning_rate_warms_up_and_then_falls(encoder: Path) -> None:
    spec = settings(encoder, warmup=4, epochs=4)
    made = router.recipe(spec, Router.fresh(spec, 2), examples(16))
    assert made.steps == 2 and made.rate is not None
    assert [made.rate(step) for step in (0, 2, 4, 6, 8)] == [0, 0.5, 1, 0.5, 0]


def test_a_warm_up_longer_than_the_training_is_a_tenth_of_it(encoder: Path) -> None:
    spec = RouterSpec(encoder=str(encoder))
    assert spec.warmup == 500
    found = {total: router.warmup_steps(spec, total) for total in (290, 500, 501, 9000)}
    assert found == {290: 29, 500: 50, 501: 500, 9000: 500}
    short = settings(encoder, warmup=500, epochs=5)
    made = router.recipe(short, Router.fresh(short, 2), examples(16))
    assert made.rate is not None and [made.rate(step) for step in (0, 1, 10)] == [0, 1, 0]


def test_it_trains_as_published(encoder: Path, tmp_path: Path) -> None:
    """AdamW without decay on biases and norms, gradients clipped at 1, a linear schedule with
    warm-up: 24 step losses and the weights, bit by bit, against a loop of its own."""
    spec, rows = settings(encoder, epochs=6, warmup=5, weight_decay=0.1), examples(32)
    fresh, wanted = Router.fresh(spec, 2), reference(spec, rows)
    made, losses = router.recipe(spec, fresh, rows), []

    def loss(model: Any, batch: Any) -> Tensor:
        losses.append(made.loss(model, batch))
        return losses[-1]

    drain(train(fresh.model, replace(made, loss=loss)))
    assert len(losses) == 24
    assert [one.item() for one in losses] == wanted[0]
    assert all(map(torch.equal, fresh.model.state_dict().values(), wanted[1].values()))


def reference(spec: RouterSpec, rows: Answers) -> tuple[list[float], dict[str, Tensor]]:
    """The published training, written out."""
    model, tokenizer = Router.fresh(spec, 2).model, AutoTokenizer.from_pretrained(spec.encoder)
    bare = {name for name, _ in model.named_parameters() if "bias" in name or "LayerNorm" in name}
    named = dict(model.named_parameters())
    optimiser = torch.optim.AdamW(
        [
            {"params": [named[n] for n in named if n not in bare], "weight_decay": 0.1},
            {"params": [named[n] for n in bare], "weight_decay": 0.0},
        ],
        lr=spec.lr,
    )
    steps = spec.epochs * len(rows) // spec.batch_size
    schedule = get_linear_schedule_with_warmup(optimiser, spec.warmup, steps)
    losses = []
    model.train()
    for epoch in range(spec.epochs):
        torch.manual_seed(spec.seed + 1000 * (epoch + 1))
        for numbers in torch.randperm(len(rows)).split(spec.batch_size):
            chosen = rows.take(numbers.numpy())
            batch = tokenizer(
                chosen.prompts.tolist(),
                padding=True,
                truncation=True,
                max_length=spec.max_length,
                return_tensors="pt",
            )
            found = model(**batch).logits
            loss = ((found - torch.tensor(chosen.likelihood, dtype=torch.float32)) ** 2).mean()
            optimiser.zero_grad()
            loss.backward()
            assert torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0) > 1, "clipped"
            optimiser.step()
            schedule.step()
            losses.append(loss.item())
    return losses, model.state_dict()


NONE, NOTHING = float("-inf"), float("nan")


@pytest.mark.parametrize("bad", [NONE, NOTHING])
def test_numbers_that_are_not_finite_never_reach_the_router(
    bad: float, encoder: Path, tmp_path: Path
) -> None:
    _, report = trained(settings(encoder), examples(40, bad), tmp_path)
    assert report.items + report.validated == 40
    told = {name: value for name, value in asdict(report).items() if name != "margin"}
    assert all(map(math.isfinite, told.values()))
    assert Router.load(tmp_path).scores(["a", "b"]).isfinite().all()


def test_a_router_of_no_numbers_is_no_router(encoder: Path, tmp_path: Path) -> None:
    """Its regret would be 0, and it would win every search."""
    with pytest.raises(PlanError, match="lower"):
        trained(settings(encoder, lr=1e30, warmup=0), examples(40), tmp_path)
    assert not (tmp_path / "router.json").exists()


def test_an_empty_prompt_has_scores(encoder: Path) -> None:
    fresh = Router.fresh(settings(encoder), 3)
    assert len(fresh.tokenizer("")["input_ids"]) == 0
    both = fresh.scores(["", "one"])
    assert both.isfinite().all()
    assert torch.allclose(both[:1], fresh.scores([""]), atol=1e-5)


def test_prompts_longer_than_the_encoder_are_refused(encoder: Path) -> None:
    with pytest.raises(PlanError, match=r"router.max_length: got 256; allowed: up to the 64"):
        Router.fresh(RouterSpec(encoder=str(encoder)), 2)


def test_an_encoder_without_a_tokenizer_is_refused(encoder: Path, tmp_path: Path) -> None:
    place = tmp_path / "encoder"
    shutil.copytree(encoder, place, ignore=shutil.ignore_patterns("tokenizer*"))
    with pytest.raises(ModelError, match=r"encoder.*no tokenizer's files"):
        Router.fresh(settings(place), 2)


def test_an_encoder_with_code_of_its_own_is_refused_and_nobody_asked(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "encoder"
    shutil.copytree(encoder, place)
    config = json.loads((place / "config.json").read_text())
    own = {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig"}}
    (place / "config.json").write_text(json.dumps(config | own))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked at the terminal"))
    with pytest.raises(ModelError, match="brings Python code of its own"):
        Router.fresh(settings(place), 2)


def test_another_encoder_in_the_same_place_is_another_training(
    encoder: Path, tmp_path: Path
) -> None:
    place = tmp_path / "encoder"
    shutil.copytree(encoder, place)
    spec, found = settings(place, epochs=1), []
    for factor in (1.0, 2.0):
        model = AutoModelForSequenceClassification.from_pretrained(encoder)
        model.bert.embeddings.word_embeddings.weight.data.mul_(factor)
        model.save_pretrained(place)
        trained(spec, examples(16), tmp_path)
        found.append(Router.load(tmp_path).model.state_dict())
    name = "bert.embeddings.word_embeddings.weight"
    assert torch.allclose(2 * found[0][name], found[1][name], atol=0.05)
    assert len(list((tmp_path / "cache" / "routers").glob("*.safetensors"))) == 2


def test_a_saved_router_scores_the_same(encoder: Path, tmp_path: Path) -> None:
    fresh = Router.fresh(settings(encoder), 3)
    fresh.save(tmp_path / "router")
    prompts = ["one", "another prompt", "x" * 100]
    again = Router.load(tmp_path / "router")
    assert torch.equal(again.scores(prompts), fresh.scores(prompts))
    assert again.max_length == 32
    assert torch.allclose(fresh.scores(prompts, batch_size=1), fresh.scores(prompts), atol=1e-5)
