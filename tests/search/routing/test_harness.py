"""A routing study judged by a local task of lm-evaluation-harness."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from search.routing.evaluation import DENSE, KEPT
from search.routing.stages import Route
from search.study.routing import load_route
from tests.support.routing import invoke, ran, write_study
from tests.support.toys import harness_task
from trainables.core.errors import MetricError, UserError
from trainables.routing.routed_model import RoutedModel
from trainables.routing.router import Router
from trainables.routing.worker import RouteWork


def rows(folder: Path, count: int = 24) -> str:
    """A task of its own form: the prompt is in its words, not in the study's."""
    letters = [chr(97 + (7 * i + 3) % 26) for i in range(count)]
    found = [
        {"goal": f"open {i} ", "sol1": one * 2, "sol2": other * (2 + i % 2), "label": i % 2}
        for i, (one, other) in enumerate(zip(letters, reversed(letters), strict=True))
    ]
    return harness_task(folder, found)


def judged(made: Path, storage: Path, task: str, more: str = "") -> Path:
    """The tiny study, judged by the task too."""
    file = write_study(made, storage)
    text = file.read_text().replace("[evaluation]", f'[evaluation]\nharness = "{task}"\n{more}')
    file.write_text(text)
    return file


@pytest.mark.long
def test_each_way_of_choosing_has_the_harnesss_own_scores(
    whole: Route, made: Path, tmp_path: Path
) -> None:
    module = pytest.importorskip("trainables.bench.metrics.harness")
    task, runs = rows(tmp_path), tmp_path / "runs"
    shutil.copytree(whole.root, runs / whole.root.name)  # where other tests look no run turns up
    spec = load_route(judged(made, runs, task))
    route = ran(spec)
    [each] = route.evaluation["budgets"].values()
    found, sets = each["harness"], list(route.sets.values())
    work, router = RouteWork(spec), Router.load(Path(route.routers[2].folder))
    routed = RoutedModel(work.model, work.tokenizer, router, sets)
    data = spec.harness_data()

    class Routed(module._Resident):  # type: ignore[misc, name-defined]
        def loglikelihood(self, requests: Any) -> Any:
            chosen = routed.route([one.args[0] for one in requests])
            each = [module._Resident(routed.pruned(at), work.tokenizer, data) for at in chosen]
            return [
                one.loglikelihood([asked])[0] for one, asked in zip(each, requests, strict=True)
            ]

    manager, counts = module._tasks(data.harness, module._contents(data.harness))
    assert counts == {"tiny_piqa": 24}
    models = {KEPT: Routed(work.model, work.tokenizer, data)}
    models[DENSE] = module._Resident(work.model, work.tokenizer, data)
    for name, model in models.items():
        wanted = module.simple_evaluate(
            model, tasks=["tiny_piqa"], task_manager=manager, bootstrap_iters=0, log_samples=False
        )["results"]["tiny_piqa"]
        for score in ("acc", "acc_norm"):
            said = found[name][f"accuracy/tiny_piqa/{score}"]
            assert said == pytest.approx(wanted[f"{score},none"]), (name, score)
    assert len({row["accuracy/tiny_piqa/acc"] for row in found.values()}) > 1
    assert json.loads((route.root / "evaluation.json").read_text())["budgets"]["2"] == each
    assert "lm-evaluation-harness" in invoke("eval", judged(made, runs, task), route)


def test_a_task_that_changed_is_asked_again_and_others_are_not(
    whole: Route, made: Path, tmp_path: Path
) -> None:
    pytest.importorskip("lm_eval")
    file = judged(made, whole.root.parent, rows(tmp_path, 20), "questions = 6")
    spec = load_route(file)
    before = RouteWork(spec).identity()["harness"]
    assert RouteWork(spec).identity()["harness"] == before
    rows(tmp_path, 21)
    assert RouteWork(spec).identity()["harness"] != before
    assert len(RouteWork(spec).harness("tiny_piqa", (1,))["answers"]) == 6


def test_what_cannot_be_asked_is_said_before_anything_else(
    whole: Route, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_study(made, tmp_path)
    file.write_text(file.read_text().replace("[tasks.sums]", '[tasks.sums]\nharness = "piqa"'))
    with pytest.raises(UserError, match=r"tasks.sums.harness.*\[evaluation\] harness"):
        load_route(file)
    task = rows(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"evaluation.harness: lm-evaluation-harness is not inst"):
        load_route(judged(made, tmp_path / "other", task))


def test_a_task_without_choices_is_refused(made: Path, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    path = Path(rows(tmp_path))
    path.write_text(path.read_text().replace("multiple_choice", "generate_until"))
    work = RouteWork(load_route(judged(made, tmp_path / "runs", str(path))))
    with pytest.raises(MetricError, match="tasks of choices"):
        work.identity()
