"""A trial becomes a folder again: replayed, judged on held-out data, proven, registered."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import datasets
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

from search import export as exporting
from search.export import choose, export_run, export_trial, stages_of
from search.journal.results import Result
from search.journal.store import Store
from search.journal.view import View, read
from search.ledger.mirror import open_client, sync
from search.ledger.model_registry import describe
from search.ledger.run_ids import run_ids
from search.rebuild import Plan, free, make
from search.report.best import is_worse
from search.report.format import measured_on, storage_flag
from search.study.load import parse_study
from search.study.schema import SpaceSpec
from tests.support.families import FAMILIES
from tests.support.journals import Sample, sample_study
from tests.support.toys import jsonl, word_tokenizer
from trainables.bench.metrics.evaluate import Measure
from trainables.bench.models.structure import blocks
from trainables.bench.models.verify import Proof
from trainables.core.errors import PlanError, UserError
from trainables.load import load
from trainables.neurons import Neurons
from trainables.omission.method import Omission
from trainables.recover import Recover
from trainables.similarity.iterative import Iterate
from trainables.similarity.method import Similarity
from trainables.stage import Facts, drain
from trainables.trial import open_bench, run_stages
from trainables.wanda import Wanda, WandaSequential, sequential


@pytest.mark.long
def test_exported_folder(tiny: Sample, tmp_path: Path) -> None:
    said: list[str] = []
    to = tmp_path / "out" / "smaller"
    report = export_trial(tiny.store, to, trial=1, said=said.append)
    assert "a fresh process loads it: identical logits" in report
    assert f"AutoModelForCausalLM.from_pretrained('{to}')" in report
    assert "held-out" in said[1] and "fresh process" in said[-1]
    assert list(to.parent.iterdir()) == [to]
    model = AutoModelForCausalLM.from_pretrained(to)
    assert model.config.num_hidden_layers == 3
    zeros = (model.model.layers[0].mlp.up_proj.weight == 0).float().mean()
    assert float(zeros) == pytest.approx(6 / 32)  # int(.2 * 32) of each row
    tokens = AutoTokenizer.from_pretrained(to)("one", return_tensors="pt")
    assert model.generate(**tokens, max_new_tokens=3, do_sample=False).shape[1] == 6


def test_what_the_folder_says(tiny: Sample, tmp_path: Path, unproven: list[str]) -> None:
    export_trial(tiny.store, tmp_path / "out", trial=1, as_searched=True)
    view = read(tiny.store)
    told = json.loads((tmp_path / "out" / "compression.json").read_text())
    metrics = told["metrics"]
    assert metrics["search"] == view.trial(1).metrics
    assert metrics["held_out"]["perplexity"] != metrics["search"]["perplexity"]
    assert metrics["held_out"]["nonzero_parameters"] == metrics["search"]["nonzero_parameters"]
    assert metrics["baseline_held_out"]["perplexity"] != metrics["baseline"]["perplexity"]
    assert told["lineage"] == view.trial(1).lineage
    assert told["fingerprints"]["held_out"] != told["fingerprints"]["search"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "license: apache-2.0" in card
    assert "| perplexity |" in card and " 3 items of `rows.jsonl`" in card
    assert "1. **Omission**: skip = (2,)" in card or "1. **Omission**: skip = [2]" in card
    assert told["load"]["python"].format(folder='"this folder\'s path"') in card
    assert "bit for bit" not in card
    study = tomllib.loads((tmp_path / "out" / "study.toml").read_text())
    assert study["name"] == "tiny"


@pytest.mark.parametrize("form", ["plain", "exact"])
def test_the_card_says_what_each_form_really_saves(
    form: Literal["plain", "exact"],
    tiny: Sample,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def prove(load: str, folder: Path, model: Any, batch: Any, measure: str) -> Proof:
        again: dict[str, Any] = {}
        exec(load.format(folder=repr(str(folder))), again)
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        scope: dict[str, Any] = {"model": again["model"], "given": inputs}
        exec(measure, scope)
        times = {"latency_ms": 2.0, "fast_ms": 2.0, "slow_ms": 2.0}
        return Proof(True, 0.0, scope["measured"] | times)

    monkeypatch.setattr("trainables.bench.models.verify.prove", prove)
    view, target = read(tiny.store), free(tmp_path / "out")
    stages = [Neurons(0.3, edge_protect=1)]
    plan = Plan(view, view.trial(1), stages, tmp_path / "cache", "again", False, form)
    report = make(plan, target, lambda text: None)
    card = (target / "README.md").read_text()
    assert "| untouched |" in card and "the others, on cpu" in card
    told = json.loads((target / "compression.json").read_text())["costs"]
    small = told["exact" if form == "plain" else "."]
    assert small["parameters"] < told["untouched"]["parameters"]
    assert small["bytes"] < told["untouched"]["bytes"]
    exact = "`exact/`" if form == "plain" else "this folder"
    assert f"- {exact} saves parameters, bytes and memory, but not latency" in card
    assert f"{exact} saves parameters, bytes and memory, but not latency" in report
    assert (form == "plain") == (target / "exact").exists()
    if form == "plain":  # an edge keeps most: padding takes back what the others gave
        assert small["parameters"] < told["."]["parameters"] <= told["untouched"]["parameters"]


def test_held_out_data_is_measured_once(
    tiny: Sample, tmp_path: Path, unproven: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainables.bench import bench

    measured: list[str] = []
    measure_items = bench.measure_items

    def noted(one: Any, names: Any, role: Any, *how: Any) -> dict[str, Measure]:
        measured.extend([role] if names else [])
        return measure_items(one, names, role, *how)

    monkeypatch.setattr(bench, "measure_items", noted)
    for name in ("one", "two"):
        export_trial(tiny.store, tmp_path / name, trial=1, as_searched=True)
    assert measured == ["held_out", "held_out"]  # the untouched model and the trial's
    export_trial(tiny.store, tmp_path / "three", trial=1)
    assert measured[2:] == ["search", "held_out"]  # the twin by sequential Wanda


def test_the_best_of_a_metric(tiny: Sample) -> None:
    view = read(tiny.store)
    by = {
        name: min(view.trials[:2], key=lambda one: one.metrics[name]).number
        for name in ("perplexity", "nonzero_parameters")
    }
    assert all(one.feasible for one in view.trials[:2])
    assert {name: choose(view, None, name)[0].number for name in by} == by
    assert choose(view, None, None)[0].number == by["perplexity"]
    with pytest.raises(UserError, match='not measured: got "accuracy"; allowed: perplexity'):
        choose(view, None, "accuracy")


def _study_of(*metrics: tuple[float, float]) -> View:
    """A study whose trials came out so: perplexity, parameters; first the untouched model."""
    results = [
        Result(number, "complete", {}, {"perplexity": one, "parameters": two}, {}, {})
        for number, (one, two) in enumerate(metrics)
    ]
    return View(sample_study(), tuple(results))


def test_ties_in_a_metric_go_to_the_better_one_in_the_others() -> None:
    view = _study_of((20.0, 134e6), (25.0, 127e6), (22.0, 127e6), (22.0, 127e6), (21.0, 130e6))
    assert choose(view, None, "parameters")[0].number == 2
    assert choose(view, None, "perplexity")[0].number == 4


def test_no_trial_is_exported_that_the_untouched_model_dominates() -> None:
    beaten = _study_of((20.0, 134e6), (21.0, 134e6), (20.5, 135e6))
    for metric in (None, "perplexity", "parameters"):
        with pytest.raises(UserError, match="nothing to export: no trial improves on the unt"):
            choose(beaten, None, metric)
    assert choose(beaten, 1, None)[0].number == 1
    mixed = _study_of((20.0, 134e6), (20.5, 135e6), (21.0, 130e6))
    assert choose(mixed, None, None)[0].number == choose(mixed, None, "perplexity")[0].number == 2


def test_no_model_to_export(tiny: Sample, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="its state is fail: out of memory"):
        export_trial(tiny.store, tmp_path / "out", trial=3)
    with pytest.raises(UserError, match="no such trial: got 9"):
        export_trial(tiny.store, tmp_path / "out", trial=9)
    assert not (tmp_path / "out").exists()


def test_a_folder_with_something_in_it_is_left_alone(tiny: Sample, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="the folder is not empty"):
        export_trial(tiny.store, tmp_path / "out", trial=1)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_nothing_is_left_of_an_export_that_fails(
    tiny: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuted(*_: object) -> Proof:
        raise PlanError("its logits differ by 3.0")

    monkeypatch.setattr("trainables.bench.models.verify.prove", refuted)
    with pytest.raises(UserError, match=r"its logits differ by 3\.0"):
        export_trial(tiny.store, tmp_path / "all" / "out", trial=1)
    assert list((tmp_path / "all").iterdir()) == []


def test_a_replay_that_drifts_says_so(
    tiny: Sample, tmp_path: Path, unproven: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    view = read(tiny.store)
    other = stages_of(view, view.trial(2))
    monkeypatch.setattr(exporting, "stages_of", lambda *_: other)
    report = export_trial(tiny.store, tmp_path / "out", trial=1)
    assert "not bit for bit the model of the search" in report
    assert "not bit for bit" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.filterwarnings("ignore")  # MLflow's own
def test_registered_as_champion(tiny: Sample, tmp_path: Path, unproven: list[str]) -> None:
    from search.ledger.mirror import open_client, tracking_uri

    report = export_trial(tiny.store, tmp_path / "out", trial=2, register="tiny-model")
    assert "models:/tiny-model@champion" in report
    client = open_client(tracking_uri(tiny.store))
    version = client.get_model_version_by_alias("tiny-model", "champion")
    folder = Path(client.download_artifacts(version.run_id, "model", str(tmp_path)))
    assert AutoModelForCausalLM.from_pretrained(folder).config.num_hidden_layers == 4
    assert _as_mlflow_loads_it("models:/tiny-model@champion", client) == _say(tmp_path / "out")
    with pytest.raises(UserError, match="without / and :"):
        export_trial(tiny.store, tmp_path / "other", trial=2, register="a/b")


def _say(folder: Path) -> str:
    say = pipeline("text-generation", str(folder))
    return str(say("one", max_new_tokens=4, do_sample=False)[0]["generated_text"])


def _as_mlflow_loads_it(uri: str, client: Any) -> str:
    """What a registered model says, by both doors of MLflow's own."""
    import mlflow

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(client.tracking_uri)
    try:
        asked = {"max_new_tokens": 4, "do_sample": False}
        said = mlflow.transformers.load_model(uri)("one", **asked)[0]["generated_text"]
        served = mlflow.pyfunc.load_model(uri)
        assert served.get_raw_model()("one", **asked)[0]["generated_text"] == said
        assert served.predict("one")[0].startswith("one")
    finally:
        mlflow.set_tracking_uri(before)
    return str(said)


@pytest.mark.parametrize(("head", "plain"), [("LlamaModel", True), ("BertForMaskedLM", False)])
def test_what_mlflow_cannot_load_is_registered_as_a_folder(
    head: str, plain: bool, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": [head]}))
    (tmp_path / "compression.json").write_text(json.dumps({"load": {"plain_transformers": plain}}))
    assert not describe(tmp_path, tmp_path / "to")
    assert not (tmp_path / "to").exists()


def test_the_untouched_model_can_be_exported(
    tiny: Sample, tmp_path: Path, unproven: list[str]
) -> None:
    report = export_trial(tiny.store, tmp_path / "out", trial=0)
    assert "baseline: untouched model" in report
    assert "Nothing: this is the untouched model." in (tmp_path / "out" / "README.md").read_text()


# -- what an export may not do -------------------------------------------------------------------

CLASSES = """
name = "classes"
space = "similarity"
[model]
id = "{model}"
[data]
dataset = "{data}"
task = "classification"
max_length = 8
batch_size = 4
items = {{ calibration = 4, train = 4, search = 4, held_out = 4 }}
[objectives]
accuracy = "max"
[budget]
trials = 1
"""


def test_stages_decide_on_search_data_and_held_out_is_only_looked_at(
    tmp_path: Path, unproven: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On held-out data every pass would be undone, as accuracy falls to nothing there."""
    from trainables.bench import bench as bench_module

    def judged(one: Any, names: Any, role: Any, *_: Any) -> dict[str, Measure]:
        whole = len(blocks(one.model)) == 4
        return dict.fromkeys(names, Measure(1.0 if role == "search" or whole else 0.0))

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    monkeypatch.setattr(bench_module, "measure_items", judged)
    FAMILIES["bert"]().save_pretrained(tmp_path / "model")
    word_tokenizer().save_pretrained(tmp_path / "model")
    words = [{"text": f"x{i % 9} the {word}", "label": word} for i in range(20) for word in ABC]
    data = jsonl(tmp_path / "rows.jsonl", words)
    study = parse_study(CLASSES.format(model=tmp_path / "model", data=data), "classes.toml")
    stages = [Iterate(Similarity(0.0), Recover(epochs=1, batch_size=4))]
    trial = drain(run_stages(open_bench(study.bench_spec(tmp_path / "one")), stages))
    assert trial["shape"]["blocks"] < 4
    result = Result(1, "complete", {}, trial["metrics"], {}, trial)
    plan = Plan(View(study, ()), result, stages, tmp_path / "other", "again")
    told = make(plan, tmp_path / "out", lambda text: None)
    assert load(tmp_path / "out").config.num_hidden_layers == trial["shape"]["blocks"]
    assert "accuracy: 0.0000 held out (1.0000 in the search" in told and "note:" not in told


ABC = ("red", "blue")


@pytest.mark.long
def test_an_export_needs_no_ray(tiny: Sample, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from search.export import export_trial;"
        "from search.journal.store import Store;"
        f"store = Store(Path({str(tiny.store.folder)!r}), 'tiny');"
        f"export_trial(store, Path({str(tmp_path / 'out')!r}), trial=1);"
        "sys.exit('ray' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "config.json").is_file()


def test_the_card_says_on_what_each_metric_was_measured(
    tiny: Sample, tmp_path: Path, unproven: list[str]
) -> None:
    export_trial(tiny.store, tmp_path / "out", trial=1)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "per predicted token; on the 3 held-out items." in card
    assert "Read as text: documents stripped" in card
    assert "- nonzero_parameters: parameters that are not zero; of the weights, whatever" in card
    timed = measured_on(tiny.study, "latency_ms", "held_out")
    assert "on one batch of the 3 held-out items, up to 2 of them; depends on the machine" in timed
    own = measured_on(tiny.study.model_copy(update={"metrics": {"f": "m:f"}}), "f", "search")
    assert own == "the study's own, m:f; given the 4 search items"


# -- Wanda as published --------------------------------------------------------------------------


def test_a_wanda_leaves_the_house_block_by_block(
    tiny: Sample, tmp_path: Path, unproven: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.rebuild.is_worse", lambda *_: False)
    report, view = export_trial(tiny.store, tmp_path / "out", trial=1), read(tiny.store)
    told = json.loads((tmp_path / "out" / "compression.json").read_text())
    assert [one["stage"] for one in told["stages"]] == ["Omission", "WandaSequential"]
    assert told["wanda"]["exported"] == "sequential"
    assert told["wanda"]["one_pass"]["search"] == view.trial(1).metrics
    assert told["metrics"]["search"] == told["wanda"]["sequential"]["search"]
    assert told["metrics"]["held_out"] == told["wanda"]["sequential"]["held_out"]
    assert told["metrics"]["search"] != told["wanda"]["one_pass"]["search"]
    assert told["lineage"] != view.trial(1).lineage and "note:" not in report
    bench = open_bench(tiny.study.bench_spec(tmp_path / "cache"))
    drain(run_stages(bench, [Omission(skip=(2,)), WandaSequential(0.2)]))
    found = load(tmp_path / "out").state_dict()
    assert all(torch.equal(found[name], one) for name, one in bench.model.state_dict().items())
    kept = tomllib.loads((tmp_path / "out" / "trial.toml").read_text())
    assert kept["lineage"] == view.trial(1).lineage  # what was searched, to be made again
    card = (tmp_path / "out" / "README.md").read_text()
    for text in (report, card.lower()):
        assert "earched with one-pass wanda, exported with sequential" in text.lower()
        assert "perplexity: one-pass " in text and "--as-searched" in text
    assert "on search items |" in card and "**WandaSequential**" in card


def test_where_that_is_worse_on_search_items_the_trials_own_model_is_kept(
    tiny: Sample, tmp_path: Path, unproven: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.rebuild.is_worse", lambda *_: True)
    report, view = export_trial(tiny.store, tmp_path / "out", trial=1), read(tiny.store)
    told = json.loads((tmp_path / "out" / "compression.json").read_text())
    assert (told["lineage"], told["metrics"]["search"]) == (
        view.trial(1).lineage,
        view.trial(1).metrics,
    )
    assert told["wanda"]["exported"] == "one_pass"
    assert "was tried and is worse on search items" in report


def test_stages_that_have_no_other_form_are_not_tried() -> None:
    assert sequential([Omission(skip=(1,)), Wanda(0.0)]) == []
    assert sequential([Wanda(0.5), Recover()]) == []
    assert sequential([WandaSequential(0.5)]) == []
    assert sequential([Recover(), Wanda(pattern=(2, 4)), Omission(skip=(1,))]) == [
        Recover(),
        WandaSequential(pattern=(2, 4)),
        Omission(skip=(1,)),
    ]


@pytest.mark.parametrize(
    ("found", "than", "worse"),
    [
        ((21.0, 1.0), (22.0, 1.0), False),
        ((22.0, 1.0), (21.0, 1.0), True),
        ((21.0, 1.0), (21.0, 1.0), False),
        ((21.0, 2.0), (21.0, 1.0), True),
        ((27.0, 0.5), (25.0, 1.0), True),  # misses <= 130% of 20
        ((27.0, 1.0), (28.0, 1.0), False),  # so do both
    ],
)
def test_what_is_worse(found: tuple[float, float], than: tuple[float, float], worse: bool) -> None:
    names, view = ("perplexity", "parameters"), _study_of((20.0, 134e6))
    one, other = (dict(zip(names, values, strict=True)) for values in (found, than))
    assert is_worse(view, one, other) == worse
    assert is_worse(View(view.study, ()), one, other) == (found > than)  # no baseline is known


# -- where it is put -----------------------------------------------------------------------------


def test_a_link_to_an_empty_folder_is_filled(
    tiny: Sample, tmp_path: Path, unproven: list[str]
) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    export_trial(tiny.store, tmp_path / "link", trial=1)
    assert (tmp_path / "link").is_symlink()
    names = {path.name for path in (tmp_path / "disk").iterdir()}
    assert {"config.json", "README.md", "compression.json"} <= names
    assert not [name for name in names if name.startswith(".")]
    (tmp_path / "dangling").symlink_to(tmp_path / "later")
    export_trial(tiny.store, tmp_path / "dangling", trial=1)
    assert (tmp_path / "later" / "config.json").is_file()


def test_a_folder_that_was_there_is_there_after_a_failure(
    tiny: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuted(*_: object) -> Proof:
        raise PlanError("its logits differ by 3.0")

    monkeypatch.setattr("trainables.bench.models.verify.prove", refuted)
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    for to in ("disk", "link"):
        with pytest.raises(UserError, match="logits differ"):
            export_trial(tiny.store, tmp_path / to, trial=1)
    assert (tmp_path / "link").is_symlink() and list((tmp_path / "disk").iterdir()) == []


def test_what_a_killed_export_left_is_swept_up_and_a_running_ones_is_not(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for place in (tmp_path / "out", tmp_path):
        (place / f".out.{gone.pid}.tmp" / "weights").mkdir(parents=True)
        (place / f".other.{gone.pid}.tmp").mkdir()
    (tmp_path / "out" / f".other.{gone.pid}.tmp").rmdir()
    assert free(tmp_path / "out") == tmp_path / "out"
    assert not list((tmp_path / "out").iterdir())
    assert {path.name for path in tmp_path.iterdir()} == {"out", f".other.{gone.pid}.tmp"}
    (tmp_path / "out" / f".out.{os.getpid()}.tmp").mkdir()
    with pytest.raises(UserError, match="the folder is not empty"):
        free(tmp_path / "out")


def test_a_place_that_cannot_be_written_is_said_before_the_work(
    tiny: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(self: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("search.rebuild._made", lambda *_: pytest.fail("worked already"))
    target = free(tmp_path / "out")
    monkeypatch.setattr(Path, "mkdir", refused)
    plan = Plan(read(tiny.store), read(tiny.store).trial(1), [], tmp_path, "again")
    with pytest.raises(UserError, match=f"--to: cannot write to {tmp_path}: Permission denied"):
        make(plan, target, lambda text: None)


# -- a space that changed ------------------------------------------------------------------------


def _renamed(trial: Any, facts: Facts) -> list[Any]:
    return [Wanda(trial.suggest_int("wanda.share", 0, 50) / 100)]


def _shorter(trial: Any, facts: Facts) -> list[Any]:
    return [Wanda(trial.suggest_int("wanda.percent", 0, 50) / 100)]


@pytest.mark.parametrize(
    ("space", "got", "asked"),
    [
        ("_renamed", '"omission.skip, wanda.percent"', "wanda.share"),
        ("_shorter", '"omission.skip"', "wanda.percent"),
    ],
)
def test_a_space_that_asks_otherwise_now_is_one_message(
    tiny: Sample, tmp_path: Path, space: str, got: str, asked: str
) -> None:
    view = read(tiny.store)
    named = view.study.model_copy(update={"space": SpaceSpec(name=f"{__name__}:{space}")})
    with pytest.raises(UserError) as error:
        stages_of(replace(view, study=named), view.trial(1))
    told = str(error.value)
    assert f"trial 1: space {__name__}:{space} asks for other parameters now: got {got}" in told
    assert f"allowed: {asked}" in told and "commit 0123abc" in told


# -- from the ledger -----------------------------------------------------------------------------


def test_a_run_is_exported_without_its_runs_folder(
    tiny: Sample, tmp_path: Path, unproven: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sync(tiny.store)
    runs, view = run_ids(tiny.store), read(tiny.store)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tiny.store.ledger}")
    shutil.rmtree(tiny.store.root)
    elsewhere = Store(tmp_path / "elsewhere", "runs")
    to = tmp_path / "out"
    told = export_run(elsewhere, runs[1], to, name="tiny-run", as_searched=True)
    assert "tiny, trial 1: Omission" in told and "note:" not in told
    assert "models:/tiny-run@champion" in told
    made = json.loads((tmp_path / "out" / "compression.json").read_text())
    assert made["lineage"] == view.trial(1).lineage
    assert made["rebuild"] == f"rayduce export {runs[1]} --to DIR --as-searched"
    assert made["metrics"]["search"] == view.trial(1).metrics
    with pytest.raises(UserError, match="trial 3 has no model, its state is fail: out of memory"):
        export_run(elsewhere, runs[3], tmp_path / "other")
    parent = _parent(runs[1])
    with pytest.raises(UserError, match=r"is no trial's: it holds no trial\.toml"):
        export_run(elsewhere, parent, tmp_path / "other")
    with pytest.raises(UserError, match=f"no run {'0' * 32} in the ledger"):
        export_run(elsewhere, "0" * 32, tmp_path / "other")


def _parent(run_id: str) -> str:
    client = open_client(os.environ["MLFLOW_TRACKING_URI"])
    return str(client.get_run(run_id).data.tags["mlflow.parentRunId"])


def test_a_run_needs_a_ledger(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no ledger in .*set MLFLOW_TRACKING_URI"):
        export_run(Store(tmp_path, "runs"), "0" * 32, tmp_path / "out")


def test_commands_say_where_the_study_lies(
    tiny: Sample, tmp_path: Path, unproven: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    export_trial(tiny.store, tmp_path / "one", trial=2)
    monkeypatch.chdir(tmp_path)
    export_trial(tiny.store, tmp_path / "two", trial=2)
    one, two = (json.loads((tmp_path / n / "compression.json").read_text()) for n in ("one", "two"))
    assert one["rebuild"] == f"rayduce export tiny --trial 2 --to DIR --storage {tmp_path}/runs"
    assert two["rebuild"] == "rayduce export tiny --trial 2 --to DIR"
    for password in ("", ":s3cret"):
        assert storage_flag(tmp_path / "runs", f"postgresql://me{password}@host/db") == (
            " --storage postgresql://me@host/db"
        )
    assert storage_flag("/my runs", None) == " --storage '/my runs'"
