"""A trial becomes a folder again: replayed, judged on held-out data, proven, registered."""

import json
import shutil
import tomllib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from optuna.samplers import RandomSampler
from optuna.trial import FixedTrial
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from search import export as exporting
from search.export import choose, export_trial, stages_of
from search.journal.results import Result
from search.journal.view import View, read
from search.study.load import parse_study
from search.study.space import load_space
from search.study.starting_points import read_point
from tests.support.journals import Sample, record, sample_study
from tests.support.toys import bytes_tokenizer, jsonl
from trainables.bench.models.verify import Proof
from trainables.bench.survey import gather
from trainables.core.errors import UserError
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


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, data, and the journal of a search of two trials and a failure."""
    folder = tmp_path_factory.mktemp("searched")
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=259, num_hidden_layers=4, pad_token_id=0, **sizes)
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    (folder / "model" / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A model\n")
    bytes_tokenizer().save_pretrained(folder / "model")
    rows = [{"text": f"{i} was {i * i} and then {i + 1}"} for i in range(60)]
    data = jsonl(folder / "rows.jsonl", rows)
    text = TOML.format(model=folder / "model", data=data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "hf")
        _search(folder, text)
    return folder


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


@pytest.fixture
def tiny(searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sample]:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    shutil.copytree(searched / "runs", tmp_path / "runs")
    text = (tmp_path / "runs" / "tiny" / "study.toml").read_text()
    made = Sample(tmp_path / "runs", parse_study(text, "tiny.toml"))
    yield made
    made.close()


@pytest.fixture
def unproven(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The proof takes a fresh process seconds; here it is only asked for."""
    asked: list[str] = []

    def prove(load: str, *_: object) -> Proof:
        asked.append(load)
        return Proof(True, 0.0)

    monkeypatch.setattr("trainables.bench.models.verify.prove", prove)
    return asked


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
    export_trial(tiny.store, tmp_path / "out", trial=1)
    view = read(tiny.store)
    told = json.loads((tmp_path / "out" / "compression.json").read_text())
    metrics = told["metrics"]
    assert metrics["search"] == view.trial(1).metrics
    assert metrics["held_out"]["perplexity"] != metrics["search"]["perplexity"]
    assert metrics["held_out"]["nonzero_parameters"] == metrics["search"]["nonzero_parameters"]
    assert metrics["baseline_held_out"]["perplexity"] != metrics["baseline"]["perplexity"]
    assert told["lineage"] == view.trial(1).lineage
    assert told["data"]["fingerprints"]["held_out"] != told["data"]["fingerprints"]["search"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "license: apache-2.0" in card
    assert "| perplexity |" in card and "\n3 items of `rows.jsonl`" in card
    assert "1. **Omission**: skip = (2,)" in card or "1. **Omission**: skip = [2]" in card
    assert told["load"]["python"].format(folder='"this folder\'s path"') in card
    assert "bit for bit" not in card
    study = tomllib.loads((tmp_path / "out" / "study.toml").read_text())
    assert study["name"] == "tiny"


def test_held_out_data_is_measured_once(
    tiny: Sample, tmp_path: Path, unproven: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainables.bench import bench

    measured: list[str] = []
    measure_all = bench.measure_all

    def noted(one: Any, names: Any, role: Any) -> dict[str, float]:
        measured.extend([role] if names else [])
        return measure_all(one, names, role)

    monkeypatch.setattr(bench, "measure_all", noted)
    for name in ("one", "two"):
        export_trial(tiny.store, tmp_path / name, trial=1)
    assert measured == ["held_out", "held_out"]  # the untouched model and the trial's


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
    from trainables.core.errors import PlanError

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
    monkeypatch.setattr(exporting, "stages_of", lambda *_: stages_of(view, view.trial(2)))
    report = export_trial(tiny.store, tmp_path / "out", trial=1)
    assert "not bit for bit the model of the search" in report
    assert "not bit for bit" in (tmp_path / "out" / "README.md").read_text()


def test_registered_as_champion(tiny: Sample, tmp_path: Path, unproven: list[str]) -> None:
    from search.ledger.mirror import open_client, tracking_uri

    report = export_trial(tiny.store, tmp_path / "out", trial=2, register="tiny-model")
    assert "models:/tiny-model@champion" in report
    client = open_client(tracking_uri(tiny.store))
    version = client.get_model_version_by_alias("tiny-model", "champion")
    folder = Path(client.download_artifacts(version.run_id, "model", str(tmp_path)))
    assert AutoModelForCausalLM.from_pretrained(folder).config.num_hidden_layers == 4
    with pytest.raises(UserError, match="without / and :"):
        export_trial(tiny.store, tmp_path / "other", trial=2, register="a/b")


def test_the_untouched_model_can_be_exported(
    tiny: Sample, tmp_path: Path, unproven: list[str]
) -> None:
    report = export_trial(tiny.store, tmp_path / "out", trial=0)
    assert "baseline: untouched model" in report
    assert "Nothing: this is the untouched model." in (tmp_path / "out" / "README.md").read_text()
