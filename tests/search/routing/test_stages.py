"""The four routing stages end to end on a tiny model, interrupted anywhere, and their files."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForMaskedLM
from typer.testing import CliRunner

from search.engine import pieces
from search.journal.lock import study_lock
from search.journal.store import Store
from search.routing.commands import app
from search.routing.evaluation import (
    CEILING,
    DENSE,
    HINDSIGHT,
    KEPT,
    ORACLE,
    RANDOM,
    ROUTER,
    STATIC,
)
from search.routing.export import export_route
from search.routing.stages import Route, run_route
from search.study.routing import load_route
from tests.support.routing import invoke, ran, runs_of, study, write_study
from tests.support.toys import bytes_tokenizer
from trainables.core.errors import UserError
from trainables.core.spec import ModelSpec
from trainables.load import load
from trainables.omission.evaluator import alone
from trainables.omission.searches import read_sets
from trainables.routing import worker
from trainables.routing.spec import RouteSpec
from trainables.routing.worker import RouteWork


def outputs(root: Path) -> dict[str, Any]:
    """What a study leaves behind, without its paths and times."""
    [record] = json.loads((root / "router.json").read_text()).values()
    weights = load_file(Path(record["folder"]) / "model.safetensors")
    return {
        "sets": (root / "sets.csv").read_text(),
        "log": (root / "all_log.csv").read_text(),
        "dataset": pq.read_table(root / "router.parquet").to_pydict(),
        "report": record["report"],
        "router": {name: value.tolist() for name, value in weights.items()},
        "evaluation": json.loads((root / "evaluation.json").read_text()),
    }


def test_the_sets_are_distinct_and_of_the_wanted_size(whole: Route) -> None:
    sets = read_sets(whole.root / "sets.csv")
    assert 1 < len(sets) <= 3
    assert len({frozenset(omit) for omit in sets.values()}) == len(sets)
    assert all(len(omit) == 2 and not {0, 5} & set(omit) for omit in sets.values())
    assert set(sets) <= {"colours-tl", "colours-tld", "sums-tl", "sums-tld"}


def test_the_data_set_holds_what_each_set_answers(whole: Route) -> None:
    rows = pq.read_table(whole.root / "router.parquet").to_pylist()
    sets = list(read_sets(whole.root / "sets.csv").values())
    assert len(rows) == 32
    assert len({row["item"] for row in rows}) == 32
    work = RouteWork(whole.spec)
    item = work.items("sums", "train")[3]
    [row] = [row for row in rows if row["item"] == "sums/train/3"]
    assert row["prompt"] == item.prompt
    wanted = alone(work.model, work._loss("sums", "tl", [item]), sets)
    assert [-value for value in row["likelihood"]] == pytest.approx(wanted, rel=1e-5)


def test_the_log_is_readable_as_the_published_one(whole: Route) -> None:
    with (whole.root / "all_log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["inputs", "likelihood", "dataset", "idx"]
    assert len(json.loads(rows[0]["likelihood"])) == len(read_sets(whole.root / "sets.csv"))


def test_the_table_keeps_to_its_bounds(whole: Route) -> None:
    [found] = whole.evaluation["budgets"].values()
    rows = found["rows"]
    accuracy = {name: row["accuracy"] for name, row in rows.items() if name != DENSE}
    assert {f"accuracy/{task}" for task in whole.spec.tasks} <= set(rows[ROUTER])
    assert max(accuracy.values()) == accuracy[ORACLE]
    assert accuracy[RANDOM] <= accuracy[HINDSIGHT] <= accuracy[CEILING]
    assert rows[ROUTER]["regret"] >= 0
    assert all(row["low"] <= row["accuracy"] <= row["high"] for row in rows.values())
    assert all(sum(sets.values()) == pytest.approx(1) for sets in found["shares"].values())
    spared = rows[DENSE]["active_parameters"] - rows[STATIC]["active_parameters"]
    assert 0 < spared < rows[KEPT]["active_parameters"] - rows[STATIC]["active_parameters"] + spared


def test_the_table_says_in_which_form_the_questions_were_asked(
    whole: Route, monkeypatch: pytest.MonkeyPatch
) -> None:
    [told, shares] = whole.log.main.noted("tables")
    assert told["title"] == "tiny, 2 blocks omitted; asked as rayduce asks"
    assert shares["title"] == "tiny, 2 blocks omitted: where prompts go"
    tasks = dict(whole.spec.tasks)
    tasks["sums"] = tasks["sums"].model_copy(update={"prompts": "pudding"})
    monkeypatch.setattr(whole, "spec", whole.spec.model_copy(update={"tasks": tasks}))
    assert whole._form == "colours, unseen asked as rayduce asks; sums asked as pudding asks"


def test_nothing_runs_twice(whole: Route, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    do = RouteWork.do

    def noted(self: RouteWork, method: str, arguments: Any) -> Any:
        done.append(method)
        return do(self, method, arguments)

    monkeypatch.setattr(RouteWork, "do", noted)
    ran(whole.spec)
    assert done == ["identity"], "which says that all is as it was"


@pytest.mark.parametrize(
    "writes", [pytest.param(2, marks=pytest.mark.slow), 6, pytest.param(9, marks=pytest.mark.slow)]
)
def test_interrupted_after_any_piece_it_ends_the_same(
    writes: int, whole: Route, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = study(made, tmp_path)
    left = iter(range(writes))
    keep = pieces.write_durably

    def write(path: Path, text: str) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        keep(path, text)

    monkeypatch.setattr(pieces, "write_durably", write)
    with pytest.raises(KeyboardInterrupt):
        ran(spec)
    monkeypatch.setattr(pieces, "write_durably", keep)
    assert outputs(ran(spec).root) == outputs(whole.root)


def test_a_failed_item_is_named_and_the_others_are_kept(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = study(made, tmp_path)
    real = RouteWork.greedy

    def fails(self: RouteWork, task: str, loss: str, seed: int) -> Any:
        if (task, loss) == ("colours", "tld"):
            raise MemoryError("no room")
        return real(self, task, loss, seed)

    monkeypatch.setattr(RouteWork, "greedy", fails)
    with pytest.raises(UserError, match=r"1 of 4 items failed(.|\n)*colours-tld.*no room"):
        ran(spec)
    assert len(list((tmp_path / "tiny" / "sets").glob("*.json"))) == 3


def test_sets_from_a_file_need_no_search(made: Path, tmp_path: Path) -> None:
    spec = study(made, tmp_path)
    file = tmp_path / "given.csv"
    file.write_text('Set,idx,\n"[1, 2]",0,one\n"[2, 1]",1,same\n"[3]",2,other\n')
    given = spec.model_copy(update={"sets": spec.sets.model_copy(update={"file": str(file)})})
    route = run_route(given, stages=1)
    assert route.sets == {"other": (3,), "one": (1, 2)}
    assert route.budgets == {1: [0], 2: [1]}


@pytest.mark.long
@pytest.mark.parametrize(
    "part",
    ["model", *(pytest.param(one, marks=pytest.mark.slow) for one in ("data", "encoder"))],
)
def test_what_changes_in_its_place_starts_afresh(part: str, made: Path, tmp_path: Path) -> None:
    """Pieces, the log of losses and routers are named after contents, not after paths."""
    source = tmp_path / "made"
    shutil.copytree(made, source, ignore=shutil.ignore_patterns("study-*"))
    spec = study(source, tmp_path / "runs")
    before = work_done(spec)
    assert work_done(spec) == before
    if part == "data":
        file = source / "sums.jsonl"
        file.write_text(file.read_text().replace("+ 1", "+ one"))
    else:
        weights = load_file(source / part / "model.safetensors")
        changed = {name: value * 1.5 for name, value in weights.items()}
        save_file(changed, source / part / "model.safetensors", metadata={"format": "pt"})
    after = work_done(spec)
    fresh = {
        "model": {"sets", "dataset", "routers", "evaluation", "omission"},
        "data": {"sets", "dataset", "routers", "evaluation", "omission"},
        "encoder": {"routers", "evaluation"},
    }[part]
    assert {kind for kind in after if after[kind] - before[kind]} == fresh
    again = ran(study(source, tmp_path / "elsewhere"))
    assert outputs(again.root) == outputs(Path(spec.folder) / spec.name)


def work_done(spec: RouteSpec) -> dict[str, set[str]]:
    """The files of all pieces after an evaluation, by kind."""
    route = ran(spec)
    kinds = {kind: route.root / kind for kind in ("sets", "dataset", "routers", "evaluation")}
    kinds["omission"] = route.root.parent / "cache" / "omission"
    return {kind: {path.name for path in folder.glob("*")} for kind, folder in kinds.items()}


def test_an_encoder_that_cannot_be_one_is_told_before_any_search(
    made: Path, tmp_path: Path
) -> None:
    spec = study(made, tmp_path)
    long = spec.router.model_copy(update={"max_length": 65})
    with pytest.raises(UserError, match=r"max_length.*64 positions"):
        ran(spec.model_copy(update={"router": long}))
    assert not list(tmp_path.glob("tiny/sets/*"))


def test_what_cannot_be_done_is_told_before_any_search(made: Path, tmp_path: Path) -> None:
    spec = study(made, tmp_path)
    deep = spec.model_copy(update={"sets": spec.sets.model_copy(update={"budget": (2, 5)})})
    more = {"num_hidden_layers": 6, "max_position_embeddings": 128}
    config = AutoConfig.from_pretrained(made / "encoder", **more)
    AutoModelForMaskedLM.from_config(config).save_pretrained(tmp_path / "reader")
    bytes_tokenizer().save_pretrained(tmp_path / "reader")
    reader = spec.model_copy(update={"model": ModelSpec(id=str(tmp_path / "reader"))})
    told = {"sets.budget: got 5; allowed: up to the 4": deep, "in both directions": reader}
    for message, broken in told.items():
        with pytest.raises(UserError, match=message):
            ran(broken)
    assert not list(tmp_path.glob("tiny/sets/*"))


def test_what_is_done_already_loads_no_weights(
    whole: Route, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "load_model", None)
    assert ran(whole.spec).evaluation["budgets"] == whole.evaluation["budgets"]


def test_a_warm_up_that_never_ends_is_told(made: Path, tmp_path: Path) -> None:
    spec = study(made, tmp_path)
    router = spec.router.model_copy(update={"warmup": 500})
    told: list[str] = []
    ran(spec.model_copy(update={"router": router}), told.append)
    assert any("warm-up of 500 steps is longer than the training" in line for line in told)


def test_results_inside_a_jobs_own_folder_are_refused(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = study(made, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(UserError, match="absolute folder that all nodes see"):
        ran(spec)
    assert list(tmp_path.iterdir()) == []


def test_two_at_once_are_refused(whole: Route, made: Path, tmp_path: Path) -> None:
    file = write_study(made, tmp_path)
    with study_lock(whole.log.store), pytest.raises(UserError, match="tiny is running"):
        invoke("sets", file, whole)


def test_the_exported_model_loads_and_writes(whole: Route, tmp_path: Path) -> None:
    lines = export_route(whole, tmp_path / "out")
    assert len(lines) == 6
    model = load(tmp_path / "out")
    assert len(model.generate(["Box 1 is", "2 + 1 ="], max_new_tokens=3)) == 2
    assert "from trainables.load import load" in (tmp_path / "out" / "README.md").read_text()
    told = CliRunner().invoke(app, ["chat", str(tmp_path / "out"), "--tokens", "3"], "Box 1\n\n")
    chosen = model.route(["Box 1"])[0]
    omitted = " ".join(map(str, model.sets[chosen]))
    assert f"set {chosen}, without blocks {omitted}: " in told.stderr and told.exit_code == 0
    assert told.stdout.strip() == model.generate(["Box 1"], max_new_tokens=3)[0].strip()
    found = whole.speeds[2]
    assert found["bytes/active"] < found["bytes/resident"]
    with pytest.raises(UserError, match=r"--budget: got 3; allowed: 2"):
        export_route(whole, tmp_path / "other", budget=3)


def test_a_folder_that_is_taken_is_refused_before_any_work(made: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("here")
    file = write_study(made, tmp_path / "runs")
    found = CliRunner().invoke(app, ["export", str(file), "--to", str(tmp_path / "out")])
    assert isinstance(found.exception, UserError) and "is not empty" in str(found.exception)
    assert not (tmp_path / "runs").exists()


class Elsewhere:
    """A routed model that writes what it is asked, wherever it is loaded."""

    loaded: list[dict[str, str]]

    def __init__(self, *_: object) -> None:
        pass

    @classmethod
    def load(cls, place: Path, **how: str) -> "Elsewhere":
        cls.loaded.append(how)
        return cls()

    def save(self, place: Path) -> None:
        place.mkdir()

    def generate(self, prompts: list[str], max_new_tokens: int) -> list[str]:
        return prompts


def test_what_was_exported_writes_where_the_model_in_memory_does(
    whole: Route, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, moved = torch.device("cuda:1"), list[torch.device]()
    work = SimpleNamespace(
        model=SimpleNamespace(device=there), tokenizer=None, items=lambda task, role: []
    )
    router = SimpleNamespace(model=SimpleNamespace(to=moved.append))
    Elsewhere.loaded = []
    monkeypatch.setattr("trainables.routing.worker.RouteWork", lambda spec: work)
    monkeypatch.setattr("trainables.routing.router.Router.load", lambda folder: router)
    monkeypatch.setattr("trainables.routing.routed_model.RoutedModel", Elsewhere)
    assert export_route(whole, tmp_path / "out") == []
    assert Elsewhere.loaded == [{"dtype": "float32", "device": "cuda:1"}] and moved == [there]


def test_the_commands_say_what_they_made(whole: Route, made: Path, tmp_path: Path) -> None:
    file, storage = write_study(made, tmp_path), str(whole.root.parent)
    found = {
        command: CliRunner().invoke(app, [command, str(file), "--storage", storage])
        for command in ("sets", "dataset", "train", "eval")
    }
    assert {result.exit_code for result in found.values()} == {0}
    assert f"{whole.root}/sets.csv" in found["sets"].output
    assert f"{whole.root}/router.parquet" in found["dataset"].output
    assert '"rmse"' in found["train"].output
    assert "oracle over sets" in found["eval"].output
    assert "best static set by training" in found["eval"].output
    assert not list(tmp_path.iterdir())  # all was done already


def start(file: Path, *arguments: str) -> subprocess.Popen[str]:
    """The command line, in a process group of its own."""
    command = [sys.executable, "-c", "from search.routing.commands import app; app()"]
    return subprocess.Popen(
        [*command, *arguments, str(file)], text=True, stdout=subprocess.PIPE, start_new_session=True
    )


def kill_when(process: subprocess.Popen[str], ready: Callable[[], bool]) -> None:
    """kill -9, as soon as it got so far."""
    until = time.monotonic() + 120
    while not ready() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


@pytest.mark.slow
def test_killed_in_every_stage_it_ends_the_same(whole: Route, made: Path, tmp_path: Path) -> None:
    file, root = write_study(made, tmp_path), tmp_path / "tiny"
    for pattern in (
        "sets/*.json",
        "dataset/*.json",
        "../cache/checkpoints/*.pt",
        "results/*.json",
        "evaluation/*.json",
        "evaluation.json",
    ):
        assert not (root / "evaluation.json").exists()
        kill_when(start(file, "eval"), lambda found=pattern: any(root.glob(found)))  # type: ignore[misc]
    process = start(file, "eval")
    text, _ = process.communicate()
    assert process.returncode == 0
    assert "router with fallback" in text
    runs = runs_of(Store(tmp_path, "tiny"))
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert set(runs) == set(runs_of(whole.log.store))
    parent = runs.pop("tiny").info.run_id
    assert {run.data.tags["mlflow.parentRunId"] for run in runs.values()} == {parent}
    assert outputs(root) == outputs(whole.root)


@pytest.mark.slow
def test_on_ray_workers_it_ends_the_same(whole: Route, made: Path, tmp_path: Path) -> None:
    spec = load_route(write_study(made, tmp_path), {"resources.workers": 2})
    assert spec.abreast == 2
    route = ran(spec)
    assert outputs(route.root) == outputs(whole.root)
    found = [json.loads(path.read_text())["worker"] for path in route.root.glob("*/*-*.json")]
    assert found and not any(one.endswith(f" pid {os.getpid()}") for one in found)
