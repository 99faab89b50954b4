"""The router's parts: split, targets, regret, and a training that can be interrupted."""

import json
from pathlib import Path

import pytest
import torch

from tests.support.routing import write_study
from trainables.core.errors import PlanError
from trainables.routing import router
from trainables.routing.router import Router, RouterExample
from trainables.routing.spec import RouterSpec


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    write_study(folder, folder)
    return folder / "encoder"


def examples(count: int) -> list[RouterExample]:
    """Prompts whose first letter says which of two sets is better; some are harder than others."""
    better = [(-float(i % 2), float(i % 2 - 1)) for i in range(count)]
    return [
        RouterExample(
            f"t/{i}", f"{'ab'[i % 2] * 8} {i}", (one - 5.0 * (i % 3), other - 5.0 * (i % 3))
        )
        for i, (one, other) in enumerate(better)
    ]


def settings(encoder: Path, **changed: object) -> RouterSpec:
    given = {"encoder": str(encoder), "epochs": 4, "lr": 3e-3, "warmup": 2, "batch_size": 8}
    return RouterSpec.model_validate({**given, "max_length": 32, **changed})


def test_no_item_is_on_both_sides_of_the_split() -> None:
    twice = examples(20) + examples(20)
    taught, held = router.split(twice, 0.25, seed=1)
    assert len(held) == 10
    assert not {example.item for example in taught} & {example.item for example in held}
    assert len(taught) + len(held) == 40
    assert (taught, held) == router.split(twice, 0.25, seed=1)
    with pytest.raises(PlanError, match="1 items are too few"):
        router.split(examples(1), 0.5, seed=1)


def test_centred_targets_leave_what_a_set_adds() -> None:
    rows = [RouterExample("a", "x", (-1.0, -3.0)), RouterExample("b", "y", (-11.0, -13.0))]
    assert router.targets(rows, centre=False).tolist() == [[-1, -3], [-11, -13]]
    assert router.targets(rows, centre=True).tolist() == [[1, -1], [1, -1]]


def test_regret_is_what_a_choice_loses() -> None:
    likelihood = torch.tensor([[-1.0, -3.0], [-2.0, -0.5]])
    scores = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    assert router.regret(scores, likelihood).tolist() == [2, 0]


def test_training_learns_and_reports(encoder: Path, tmp_path: Path) -> None:
    spec = settings(encoder, centre=True, epochs=12)
    steps = list(router.train(spec, examples(64), tmp_path))
    assert steps[-1]["loss"] < steps[0]["loss"] / 4
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["regret"] == 0
    assert report["static_regret"] > 0
    assert (report["items"], report["validated"]) == (58, 6)
    assert not list(tmp_path.glob("epoch-*"))
    assert list(router.train(spec, examples(64), tmp_path)) == []


def test_an_interrupted_training_ends_with_the_same_weights(encoder: Path, tmp_path: Path) -> None:
    spec = settings(encoder)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert len(list(router.train(spec, examples(30), whole))) == 4
    for _ in range(3):
        next(router.train(spec, examples(30), parts))  # as if it were killed after an epoch
    assert [step["epoch"] for step in router.train(spec, examples(30), parts)] == [4]
    one, other = (Router.load(folder).model.state_dict() for folder in (whole, parts))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert (whole / "report.json").read_text() == (parts / "report.json").read_text()


def test_the_learning_rate_warms_up_and_then_falls(encoder: Path, tmp_path: Path) -> None:
    spec = settings(encoder, warmup=4, epochs=4)
    run = router._Training(spec, Router.fresh(spec, 2), examples(16), tmp_path / "epoch.pt")
    assert run.steps == 8
    assert [run._rate(step) for step in (0, 2, 4, 6, 8)] == [0, 0.5, 1, 0.5, 0]


def test_a_saved_router_scores_the_same(encoder: Path, tmp_path: Path) -> None:
    fresh = Router.fresh(settings(encoder), 3)
    fresh.save(tmp_path / "router")
    prompts = ["one", "another prompt", "x" * 100]
    again = Router.load(tmp_path / "router")
    assert torch.equal(again.scores(prompts), fresh.scores(prompts))
    assert again.max_length == 32
    assert torch.allclose(fresh.scores(prompts, batch_size=1), fresh.scores(prompts), atol=1e-5)
