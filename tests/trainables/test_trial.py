"""A trial without Ray: stages to metrics, what is shared, what fails and how it is told."""

import fcntl
import importlib
import json
import os
import random
import sys
import time
from collections.abc import Generator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from optuna.trial import FixedTrial
from ray import tune
from transformers import LlamaConfig, LlamaForCausalLM

from spaces.omission_wanda import OmissionWandaSpace
from tests.support.families import GROUPED
from tests.support.toys import bytes_tokenizer
from trainables.bench.bench import Bench
from trainables.bench.metrics import cost
from trainables.bench.metrics.evaluate import METRICS as METRICS_OF
from trainables.bench.metrics.race import Limit, Race, Rival
from trainables.bench.training.loop import WORKSPACE
from trainables.core.alone import Turns
from trainables.core.errors import DataError
from trainables.core.lineage import reference_version
from trainables.core.spec import Assignment, BenchSpec, DataSpec, ItemCounts, ModelSpec
from trainables.core.types import Progress
from trainables.omission.method import Omission
from trainables.stage import Facts, Stage, Summary, drain
from trainables.trial import open_bench, reason, run_stages
from trainables.wanda import Wanda, WandaSequential
from trainables.worker import Place, Trial

METRICS = ("perplexity", "nonzero_parameters")
Record = dict[str, Any]


@dataclass(frozen=True)
class Slow(Stage):
    """Reports three steps and changes nothing."""

    def on(self, bench: Bench) -> Generator[Progress, None, Summary]:
        for step in range(3):
            yield {"loss": 3.0 - step}
        return Summary((), {"steps": 3})


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model and a text."""
    place = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)  # whichever test comes first
    config = LlamaConfig(**GROUPED | {"vocab_size": 300, "initializer_range": 0.3})
    LlamaForCausalLM(config).save_pretrained(place / "model")
    bytes_tokenizer().save_pretrained(place / "model")
    words = random.Random(0)
    lines = ["".join(words.choices("abcdefgh ", k=60)) for _ in range(40)]
    (place / "text.txt").write_text("\n".join(lines))
    return place


def given(*stages: Stage) -> SimpleNamespace:
    """A space of these stages alone."""
    return SimpleNamespace(stages=lambda trial, facts: list(stages), survey=lambda bench: {})


def spec(folder: Path, cache: Path, *, naive: bool = False, model: str = "model") -> BenchSpec:
    items = ItemCounts(calibration=2, train=1, search=2, held_out=1)
    return BenchSpec(
        model=ModelSpec(id=str(folder / model)),
        data=DataSpec(
            dataset=str(folder / "text.txt"),
            task="language-modelling",
            items=items,
            max_length=16,
            batch_size=2,
        ),
        objectives=METRICS,
        cache=str(cache),
        naive=naive,
    )


@pytest.fixture
def bench(folder: Path, tmp_path: Path) -> Bench:
    return open_bench(spec(folder, tmp_path / "cache"))


def run(bench: Bench, *stages: Stage, by: str = "study/1") -> Record:
    """A trial on a fork of the bench, to its end."""
    own = bench.fork(by)
    running = run_stages(own, list(stages))
    while True:
        try:
            next(running)
        except StopIteration as end:
            own.cache.release()
            found: Record = end.value
            return found


def test_studies_with_other_seeds_may_share_their_held_out_rows(
    folder: Path, tmp_path: Path
) -> None:
    def held_out(seed: int, split: int | None) -> str:
        given = spec(folder, tmp_path / "cache")
        data = given.data.model_copy(update={"seed": split})
        given = given.model_copy(update={"data": data, "seed": seed})
        return open_bench(given).data.fingerprint("held_out")

    assert held_out(1, 7) == held_out(2, 7) == held_out(7, None)
    assert held_out(1, None) != held_out(7, None)


# -- what is shared ------------------------------------------------------------------------------


def test_the_untouched_model_is_measured(bench: Bench) -> None:
    record = run(bench)
    assert record["metrics"].keys() == set(METRICS)
    assert record["stages"] == record["progress"] == []
    assert record["same_as"] is None
    assert record["lineage"] == bench.base.lineage.key
    total = record["seconds"]["stages"] + record["seconds"]["evaluate"]
    assert record["seconds"]["total"] == pytest.approx(total)


def test_the_record_says_how_the_data_is_read(bench: Bench) -> None:
    assert run(bench)["data_form"] == bench.data.description
    assert "stripped" in bench.data.description["windows"]


def test_the_same_model_is_not_evaluated_again_and_the_record_says_who_did(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(bench, Omission(skip=(1,)), Wanda(0.5), by="study/1")

    def measure(*_: object) -> dict[str, float]:
        raise AssertionError("evaluated again")

    monkeypatch.setattr("trainables.bench.bench.measure_items", measure)
    again = run(bench, Omission(skip=(1,)), Wanda(0.5), by="study/2")
    assert (first["same_as"], again["same_as"]) == (None, "study/1")
    assert again["metrics"] == first["metrics"]
    assert again["lineage"] == first["lineage"]


def test_settings_that_change_nothing_are_the_baseline(bench: Bench) -> None:
    run(bench, by="study/0")
    record = run(bench, Omission(), Wanda(0.0), by="study/1")
    assert record["same_as"] == "study/0"
    assert [stage["effects"] for stage in record["stages"]] == [[], []]


def test_times_and_memory_are_taken_by_each_trial_itself(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[str] = []
    for name in ("latency_ms", "perplexity"):
        monkeypatch.setitem(METRICS_OF, name, lambda _, name=name: taken.append(name) or 1.0)
    one, other = bench.fork("study/1"), bench.fork("study/2")
    names = ("perplexity", "latency_ms")
    assert one.measure(names).same_as is None
    assert other.measure(names).same_as == "study/1"
    assert sorted(taken) == ["latency_ms", "latency_ms", "perplexity"]
    assert other.measure(["latency_ms"]).same_as is None


def test_times_and_memory_are_taken_alone_and_the_record_says_so(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    timed = ("latency_ms", "tokens_per_second", "peak_memory", "evaluation_seconds")
    spec = bench.spec.model_copy(update={"objectives": ("perplexity", "parameters", *timed)})
    bench = replace(bench, spec=spec)
    assert run(bench)["alone"] == dict.fromkeys(timed, True)
    (floor,) = tmp_path.glob("rayduce-*.floor")
    monkeypatch.setattr("trainables.core.alone.Turns", partial(Turns, patience=0.05))
    with floor.open() as file:  # another process that computes and never steps aside
        fcntl.flock(file, fcntl.LOCK_SH)
        assert run(bench)["alone"] == dict.fromkeys(timed, False)


def test_a_race_ends_early_or_changes_nothing(folder: Path, tmp_path: Path) -> None:
    given = spec(folder, tmp_path / "cache").model_copy(update={"naive": True})  # nothing is known
    items = given.data.items.model_copy(update={"search": 32})
    data = given.data.model_copy(update={"items": items})
    bench = open_bench(given.model_copy(update={"data": data}))
    base, worse = run(bench), (Omission(skip=(1, 2)), Wanda(0.9))
    whole, rival = run(bench, *worse), Rival(0, base["metrics"], base["scores"])
    limit = Limit("perplexity", True, 0.0, 1.0, "perplexity <= 1")
    goals, calls = dict.fromkeys(METRICS, "min"), list[int]()

    def race(limits: tuple[Limit, ...], *stages: Stage) -> Record:
        calls.clear()
        own, against = bench.fork("study/1"), Race(goals, limits, rival, (rival,), first=0.5)
        own.model.register_forward_hook(lambda *_: calls.append(1))
        return drain(run_stages(own, list(stages), against))

    lost = race((limit,))
    assert (lost["state"], lost["metrics"], lost["share"]) == ("pruned", {}, 0.5)
    assert "after 50% of the items: misses perplexity <= 1" in lost["reason"]
    assert len(calls) == len(bench.data.batches("search")) / 2
    kept = race((), *worse)
    assert kept["metrics"] == whole["metrics"] and kept["scores"] == whole["scores"]


def test_the_first_time_is_warm_as_the_later_ones(bench: Bench) -> None:
    calls: list[float] = []
    bench.model.register_forward_pre_hook(lambda *_: calls.append(time.perf_counter()))
    seconds = bench.measure(["evaluation_seconds"]).values["evaluation_seconds"]
    warm, *passes = calls
    assert len(passes) == len(bench.data.batches("search"))
    assert 0 < seconds < time.perf_counter() - warm


def test_another_worker_shares_what_was_measured(bench: Bench, folder: Path) -> None:
    first = run(bench, Wanda(0.5))
    other = open_bench(bench.spec)
    record = run(other, Wanda(0.5), by="other/7")
    assert record["same_as"] == "study/1"
    assert record["metrics"] == first["metrics"]


def test_calibration_is_shared_by_settings_and_not_by_models(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    models, calibrate = [], Wanda.calibrate.__func__  # type: ignore[attr-defined]

    def counted(cls: type[Wanda], model: Any, batches: Any) -> Any:
        models.append(model)
        return calibrate(cls, model, batches)

    monkeypatch.setattr(Wanda, "calibrate", classmethod(counted))
    for sparsity in (0.0, 0.3, 0.5):
        run(bench, Wanda(sparsity))
        run(bench, Omission(skip=(1,)), Wanda(sparsity))
    assert len(models) == 2


STAGES: list[list[Stage]] = [
    [],
    [Omission(skip=(2, 1))],
    [Wanda(0.5)],
    [Omission(skip=(1,)), Wanda(0.3)],
    [Wanda(0.3), Omission(skip=(1,))],
    [Omission(skip=(1,)), WandaSequential(0.5)],
    [Omission(skip=(1,)), Wanda(0.3)],
    [Omission(skip=(1,)), Wanda(0.5)],
    [Wanda(0.3), Wanda(0.5)],
]


def test_every_shortcut_gives_what_the_naive_twin_gives(bench: Bench, tmp_path: Path) -> None:
    naive = open_bench(bench.spec.model_copy(update={"naive": True}))
    shared = [run(bench, *stages) for stages in STAGES]
    plain = [run(naive, *stages) for stages in STAGES]
    assert [record["metrics"] for record in shared] == [record["metrics"] for record in plain]
    assert [record["lineage"] for record in shared] == [record["lineage"] for record in plain]
    assert len({record["lineage"] for record in shared}) == len(STAGES) - 1
    assert all(record["same_as"] is None for record in plain)


# -- the trainable -------------------------------------------------------------------------------


POINT = {"omission.skip.count": 1, "omission.skip.01": 1, "omission.skip.02": 0}


def config(number: int, facts: Any = None, **params: Any) -> Record:
    given = Assignment(number, f"t-{number:05d}", params)
    return {"given": given, "facts": Facts.read(facts) if facts else None}


@pytest.fixture
def worker(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trial:
    """A warm worker as Ray would make it, without Ray."""
    monkeypatch.setattr(tune.Trainable, "__init__", lambda self: None)
    made = Trial()
    made.setup(config(0), bench.spec, OmissionWandaSpace(), "study", Place(tmp_path / "results"))
    return made


def finish(worker: Trial) -> Record:
    while not (result := worker.step())["done"]:
        pass
    found: Record = json.loads(result["record"])
    return found


def test_the_baseline_gathers_the_facts(worker: Trial) -> None:
    record = finish(worker)
    facts = Facts(**record["facts"])
    assert (record["number"], record["state"]) == (0, "complete")
    assert facts.blocks == 4
    assert len(facts.survey["influence"]) == 4
    assert OmissionWandaSpace().stages(FixedTrial({**POINT, "wanda.percent": 30}), facts) == [
        Omission(skip=(1,)),
        Wanda(0.3),
    ]


def test_the_result_is_on_disk_before_it_is_reported(worker: Trial, tmp_path: Path) -> None:
    record = finish(worker)
    assert json.loads((tmp_path / "results" / "t-00000.json").read_text()) == record


def test_a_warm_worker_takes_trial_after_trial(worker: Trial) -> None:
    facts = finish(worker)["facts"]
    found = []
    for number, percent in enumerate((0, 50, 50), start=1):
        worker.reset_config(config(number, facts, **POINT, **{"wanda.percent": percent}))
        found.append(finish(worker))
    assert [record["state"] for record in found] == ["complete"] * 3
    assert [record["same_as"] for record in found] == [None, None, "study/2"]
    assert [record["uid"] for record in found] == ["t-00001", "t-00002", "t-00003"]
    assert len({record["worker"] for record in found}) == 1


@pytest.mark.parametrize(
    ("stages", "parts"),
    [
        ([Omission(skip=(9,))], ["PlanError: no block [9]", "blocks 0 to 3"]),
        ([Omission(skip=(1,)), Wanda(pattern=(1, 5))], ["PlanError: pattern 1:5", "no multiple"]),
    ],
)
def test_a_stage_that_fails_is_a_failed_trial_with_its_reason(
    worker: Trial, stages: list[Stage], parts: list[str]
) -> None:
    worker.space = given(*stages)
    worker.reset_config(config(1, {"blocks": 4}))
    record = finish(worker)
    assert (record["state"], record["metrics"]) == ("fail", {})
    for part in parts:
        assert part in record["reason"]
    worker.reset_config(config(0))
    worker.space = OmissionWandaSpace()
    assert finish(worker)["state"] == "complete"  # the worker goes on


def test_a_model_that_breaks_is_a_failed_trial(
    worker: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> float:
        return float("nan")

    monkeypatch.setitem(METRICS_OF, "perplexity", broken)
    worker.reset_config(config(0))
    record = finish(worker)
    assert record["state"] == "fail"
    assert "perplexity" in record["reason"] and "nan" in record["reason"]


def test_progress_is_reported_step_by_step_and_kept(worker: Trial) -> None:
    worker.space = given(Slow())
    worker.reset_config(config(1, {"blocks": 4}))
    steps = [worker.step() for _ in range(3)]
    assert steps == [{"loss": 3.0 - step, "done": False} for step in range(3)]
    record = finish(worker)
    assert record["state"] == "complete", record["reason"]
    assert record["progress"] == [{"loss": 3.0}, {"loss": 2.0}, {"loss": 1.0}]
    assert record["stages"][0]["counts"] == {"steps": 3}


def test_a_trial_that_is_stopped_leaves_the_worker_ready(worker: Trial) -> None:
    worker.space = given(Slow(), Omission(skip=(1,)))
    worker.reset_config(config(1, {"blocks": 4}))
    worker.step()
    worker.space = OmissionWandaSpace()
    worker.reset_config(config(0))
    record = finish(worker)
    assert record["state"] == "complete"
    assert record["lineage"] == worker.bench.base.lineage.key


def test_a_model_that_cannot_be_opened_is_said_by_the_baseline(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune.Trainable, "__init__", lambda self: None)
    worker = Trial()
    missing = spec(folder, tmp_path / "cache", model="nothing")
    worker.setup(config(0), missing, OmissionWandaSpace(), "study", Place(tmp_path / "results"))
    record = finish(worker)
    assert record["state"] == "broken"
    assert "no config.json in that folder" in record["reason"]


def test_a_reason_is_one_line_with_its_place() -> None:
    try:
        Omission(skip=(-1,))
    except ValueError as error:
        said = reason(error)
    assert said.startswith("FieldError: Omission.skip = (-1,)")
    assert said.endswith(")") and "stage.py:" in said and "\n" not in said


@pytest.mark.parametrize(
    "what", ["transformers.__version__", "trainables.bench.opening._processor"]
)
def test_with_another_library_or_processor_all_is_measured_anew(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    bench = open_bench(spec(folder, tmp_path / "cache"))
    first = run(bench, Wanda(0.5))
    assert run(bench, Wanda(0.5), by="study/2")["same_as"] == "study/1"
    monkeypatch.setattr(what, "0.0.1" if "version" in what else lambda: "another processor")
    again = run(bench, Wanda(0.5), by="study/3")
    assert again["same_as"] is None and again["metrics"] == first["metrics"]


def test_with_another_library_a_model_is_calibrated_anew(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version, entries in (("0.0.1", 1), ("0.0.1", 1), ("0.0.2", 2)):
        monkeypatch.setattr("transformers.__version__", version)
        bench.fork().stats(Wanda)
        assert len(list((tmp_path / "cache" / "stats").glob("*.safetensors"))) == entries


def test_a_users_metric_that_was_corrected_is_measured_anew(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By another process: each goes on with the code that it has loaded."""
    monkeypatch.syspath_prepend(str(tmp_path))
    given = spec(folder, tmp_path / "cache")
    given = given.model_copy(update={"metrics": {"own": "users_score:own"}})
    for value in (1.0, 1.0, 2.25):
        (tmp_path / "users_score.py").write_text(f"def own(made):\n    return {value}\n")
        sys.modules.pop("users_score", None)
        importlib.invalidate_caches()
        reference_version.cache_clear()
        assert open_bench(given).measure(["own"]).values["own"] == value
    sys.modules.pop("users_score")


@pytest.mark.parametrize(
    ("metric", "how"), [("latency_ms", "pace"), ("peak_memory", "peak_memory")]
)
def test_a_role_is_timed_on_its_own_batch(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metric: str, how: str
) -> None:
    bench, timed = open_bench(spec(folder, tmp_path / "cache")), list[Any]()
    taken = getattr(cost, how)
    monkeypatch.setattr(cost, how, lambda model, batch: timed.append(batch) or taken(model, batch))
    for role in ("search", "held_out"):
        bench.measure([metric], role)
        assert timed.pop()["input_ids"].equal(bench.data.batches(role)[0]["input_ids"])


# -- what is settled, and refused, when a bench opens ----------------------------------------------


def test_products_on_a_gpu_are_settled_before_the_first(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(WORKSPACE, "")
    monkeypatch.delenv(WORKSPACE)

    def opening(*_: object) -> None:
        raise InterruptedError(os.environ.get(WORKSPACE))

    monkeypatch.setattr("trainables.trial.open_subject", opening)
    given = spec(folder, tmp_path / "cache")
    with pytest.raises(InterruptedError, match="None"):
        open_bench(given)
    with pytest.raises(InterruptedError, match=":4096:8"):
        open_bench(given.model_copy(update={"device": "cuda"}))


def test_a_bench_of_more_tokens_than_the_model_has_positions_does_not_open(
    folder: Path, tmp_path: Path
) -> None:
    config = LlamaConfig(**GROUPED | {"vocab_size": 300, "max_position_embeddings": 15})
    LlamaForCausalLM(config).save_pretrained(tmp_path / "short")
    bytes_tokenizer().save_pretrained(tmp_path / "short")
    given = spec(folder, tmp_path / "cache").model_copy(
        update={"model": ModelSpec(id=str(tmp_path / "short"))}
    )
    with pytest.raises(DataError, match="max_length = 16: the model has 15 positions"):
        open_bench(given)
