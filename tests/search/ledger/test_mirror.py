"""The ledger follows the journal: the same runs however often, whatever was lost in between."""

import json
import logging
import shutil
import threading
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from search.journal.lock import study_lock
from search.journal.view import read
from search.ledger import mirror as ledger
from search.ledger import writer as projection
from search.ledger.mirror import Mirror, embedded, open_ledger, sync, tracking_uri
from search.ledger.run_fields import metrics_of, params_of
from search.ledger.run_ids import FILE, load_links, run_ids
from search.ledger.writer import Ledger
from search.report.best import best
from tests.support.journals import Sample
from tests.support.ledgers import Runs, migrated_ledger
from trainables.core.errors import UserError


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Sample]:
    made = Sample(tmp_path / "runs")
    migrated_ledger(made.store.ledger)
    yield made
    made.close()


@pytest.fixture(scope="session")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study and an empty ledger, to be copied."""
    folder = tmp_path_factory.mktemp("searched")
    Sample(folder).run().close()
    migrated_ledger(folder / "mlflow.db")
    return folder


@pytest.fixture
def sample(tmp_path: Path, searched: Path) -> Iterator[Sample]:
    shutil.copytree(searched, tmp_path / "runs")
    made = Sample(tmp_path / "runs")
    yield made
    made.close()


def test_one_run_per_trial_below_one_per_study(sample: Sample) -> None:
    assert "6 trials and the baseline, 7 of them new" in sync(sample.store)
    runs = Runs(sample)
    assert sorted(runs.trials) == list(range(7))
    parent = runs.parent
    assert {run.data.tags["mlflow.parentRunId"] for run in runs.trials.values()} == {
        parent.info.run_id
    }
    assert (parent.info.run_name, parent.info.status) == ("depth", "FINISHED")
    assert parent.data.tags["state"] == "finished"
    assert "Omission skip=20,21" in parent.data.tags["mlflow.note.content"]
    assert parent.data.metrics["perplexity"] == 21.0
    assert parent.data.metrics["baseline/perplexity"] == 20.0
    assert parent.data.metrics["trials/failed"] == 1.0
    assert run_ids(sample.store) == {n: run.info.run_id for n, run in runs.trials.items()}


def test_a_trials_run_says_what_it_is(sample: Sample) -> None:
    sync(sample.store)
    runs = Runs(sample)
    run = runs.trials[5]
    assert run.info.run_name == "005 Omission skip=20,21 > Wanda sparsity=0.4"
    assert run.data.params == {
        "wanda.percent": "40",
        "Omission.skip": "20,21",
        "Wanda.sparsity": "0.4",
    }
    assert run.data.metrics == {
        "perplexity": 90.0,
        "parameters": 127e6,
        "hp/Omission.skip": 2.0,
        "hp/wanda.percent": 40.0,
        "hp/Wanda.sparsity": 0.4,
        "seconds": 1.5,
    }
    tags = run.data.tags
    assert (tags["state"], tags["feasible"], tags["front"]) == ("complete", "no", "no")
    assert (tags["study"], tags["space"], tags["lineage"]) == ("depth", "omission", f"{5:016x}")
    assert (tags["git_commit"], tags["hardware"][:20]) == ("0123abc", "device cpu, threads ")
    assert {n: one.data.tags["front"] for n, one in runs.trials.items() if n < 3} == {
        0: "yes",
        1: "yes",
        2: "yes",
    }


def test_a_set_is_shown_once_as_it_was_chosen(sample: Sample) -> None:
    candidates = {"omission.skip.count": 1, "omission.skip.20": 1, "omission.skip.21": 1}
    tried = replace(read(sample.store).trial(1), params={**candidates, "wanda.percent": 0})
    taken = {"stage": "Omission", "settings": {"skip": [20], "ffn": []}, "counts": {}}
    for effects in ([{"effect": "Removed"}], []):
        record = {**tried.record, "stages": [taken | {"effects": effects}]}
        result = replace(tried, record=record)
        assert params_of(result) == {"Omission.skip": [20], "wanda.percent": 0}
        assert {m.key: m.value for m in metrics_of(result)}["hp/Omission.skip"] == 1.0
    failed = replace(tried, record={"reason": "out of memory"})
    assert params_of(failed) == {
        "omission.skip": [20, 21],
        "omission.skip.count": 1,
        "wanda.percent": 0,
    }


def test_a_failed_trial_keeps_its_reason(sample: Sample) -> None:
    sync(sample.store)
    run = Runs(sample).trials[4]
    assert (run.info.status, run.data.tags["reason"]) == ("FAILED", "perplexity was nan")
    assert run.data.params["wanda.percent"] == "50"
    assert run.info.run_name == "004 failed: perplexity was nan"


def test_a_failed_trial_that_is_retried_keeps_its_run(sample: Sample) -> None:
    sync(sample.store)
    before = Runs(sample).trials[4]
    sample.journal.rows.reopen(4)
    sample.settle(4, {"perplexity": 24.0, "parameters": 127e6})
    assert ", 1 of them new" in sync(sample.store)
    run = Runs(sample).trials[4]
    assert run.info.run_id == before.info.run_id
    assert (run.info.status, run.data.metrics["perplexity"]) == ("FINISHED", 24.0)
    assert "reason" not in run.data.tags and "failed" not in run.info.run_name
    assert ", 0 of them new" in sync(sample.store)


def test_the_pages_open_with_a_studys_own_columns(sample: Sample) -> None:
    sync(sample.store)
    found = Runs(sample).client.get_experiment_by_name("rayduce")
    assert found is not None
    view = json.loads(found.tags["mlflow.sharedViewState.depth"])
    assert view["selectedColumns"][:3] == [
        "metrics.`perplexity`",
        "metrics.`parameters`",
        "tags.`front`",
    ]
    assert view["selectedColumns"][-2:] == ["params.`Omission.skip`", "params.`Wanda.sparsity`"]
    assert view["orderByKey"] == "metrics.`perplexity`" and view["orderByAsc"]
    assert len(found.tags["mlflow.sharedViewState.depth"]) < 5000  # what MLflow takes


def test_artifacts(sample: Sample) -> None:
    sync(sample.store)
    runs = Runs(sample)
    trial = tomllib.loads(runs.artifact(runs.trials[1], "trial.toml"))
    assert trial["params"] == {"omission.skip.20": 1, "omission.skip.21": 0, "wanda.percent": 0}
    assert trial["fingerprints"]["search"] == "5" * 16
    done = json.loads(runs.artifact(runs.trials[1], "compression.json"))
    assert done["stages"][0]["effects"] == [{"effect": "Removed", "blocks": [20]}]
    assert done["metrics"]["baseline"] == {"perplexity": 20.0, "parameters": 134e6}
    study = tomllib.loads(runs.artifact(runs.parent, "study.toml"))
    assert study["objectives"] == {"perplexity": "min", "parameters": "min"}
    assert [
        one["number"] for one in tomllib.loads(runs.artifact(runs.parent, "best.toml"))["trials"]
    ] == [1, 2]
    assert "<svg" in runs.artifact(runs.parent, "front.svg")
    assert "<html" in runs.artifact(runs.parent, "front.html")


def test_again_changes_nothing(sample: Sample) -> None:
    sync(sample.store)
    before = Runs(sample).state()
    assert "0 of them new" in sync(sample.store)
    assert Runs(sample).state() == before


def test_lost_links_are_found_again_by_tags(sample: Sample) -> None:
    sync(sample.store)
    before, links = Runs(sample).state(), load_links(sample.store)
    (sample.store.root / FILE).unlink()
    assert "0 of them new" in sync(sample.store)
    assert Runs(sample).state() == before
    assert load_links(sample.store) == links


def test_the_front_moves_on(empty: Sample) -> None:
    empty.run(upto=1)
    sync(empty.store)
    assert Runs(empty).trials[1].data.tags["front"] == "yes"
    empty.settle(empty.hand_out((1, 1), 10), {"perplexity": 20.5, "parameters": 127e6})
    sync(empty.store)
    runs = Runs(empty)
    fronts = {n: run.data.tags["front"] for n, run in runs.trials.items()}
    assert fronts == {0: "yes", 1: "no", 2: "yes"}
    assert runs.parent.data.metrics["perplexity"] == 20.5


def test_only_what_changed_is_written(sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    sync(sample.store)
    written: list[str] = []
    book = open_ledger(sample.store)
    for name in ("set_tag", "create_run", "set_terminated", "log_artifacts"):
        monkeypatch.setattr(book.client, name, lambda run, *_, n=name, **__: written.append(n))
    book.update(read(sample.store), ending=False)
    assert written == ["log_artifacts"]  # the front, drawn when the driver starts


def test_a_trial_takes_as_few_requests_at_the_end_of_a_study_as_at_its_beginning(
    empty: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty.baseline()
    book, asked, counts = open_ledger(empty.store), list[str](), list[int]()
    book.update(read(empty.store), ending=False)

    def counted(name: str, real: Any) -> Any:
        def call(*given: Any, **how: Any) -> Any:
            asked.append(name)
            return real(*given, **how)

        return call

    for name in (one for one in dir(book.client) if not one.startswith("_")):
        if callable(real := getattr(book.client, name)):
            monkeypatch.setattr(book.client, name, counted(name, real))
    for number in range(6):
        empty.settle(empty.hand_out(), {"perplexity": 30.0 + number, "parameters": 135e6})
        asked.clear()
        book.update(read(empty.store), ending=False)
        counts.append(len(asked))
    assert len(set(counts)) == 1 and counts[0] < 10, (counts, asked)


def test_a_run_begun_by_a_dead_driver_is_finished(
    sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> dict[str, str]:
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(projection, "trial_files", broken)
        with pytest.raises(UserError, match="the disk is full"):
            sync(sample.store)
    assert [run.info.status for run in Runs(sample).trials.values()] == ["RUNNING"]
    sync(sample.store)
    runs = Runs(sample)
    assert runs.count == 8
    assert runs.trials[0].info.status == "FINISHED"
    assert (Path(runs.trials[0].info.artifact_uri.removeprefix("file://")) / "trial.toml").exists()


def test_steps_of_progress_come_before_the_result(empty: Sample) -> None:
    empty.baseline()
    number = empty.hand_out()
    record = {
        "state": "complete",
        "metrics": {"perplexity": 21.0, "parameters": 1e6},
        "progress": [{"perplexity": 30.0, "loss": 3.0}, {"perplexity": 25.0, "loss": float("nan")}],
    }
    empty.journal.settle(number, record)
    sync(empty.store)
    runs = Runs(empty)
    history = runs.client.get_metric_history(runs.trials[1].info.run_id, "perplexity")
    assert [(one.step, one.value) for one in history] == [(0, 30.0), (1, 25.0), (2, 21.0)]
    assert runs.trials[1].data.metrics["perplexity"] == 21.0
    assert runs.trials[1].data.metrics["loss"] == 3.0


def test_an_interrupted_study_goes_on_in_the_same_run(empty: Sample) -> None:
    empty.run(upto=2)
    sync(empty.store)
    first = Runs(empty).parent
    assert (first.info.status, first.data.tags["state"]) == ("KILLED", "interrupted")
    with study_lock(empty.store):
        sync(empty.store)
        assert Runs(empty).parent.info.status == "RUNNING"
    assert Runs(empty).parent.info.run_id == first.info.run_id


def test_mirror_writes_while_the_search_goes_on(
    empty: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "PAUSE", 0.01)
    monkeypatch.setattr(ledger, "SHARE", 0)
    updated = threading.Semaphore(0)
    update = Ledger.update

    def noted(self: Ledger, view: Any, *, ending: bool) -> int:
        added = update(self, view, ending=ending)
        updated.release()
        return added

    monkeypatch.setattr(Ledger, "update", noted)
    with study_lock(empty.store), Mirror(empty.study, empty.store) as mirror:
        empty.baseline()
        mirror.offer()
        assert updated.acquire(timeout=60)
        during = Runs(empty)
        assert (list(during.trials), during.parent.info.status) == ([0], "RUNNING")
        for skip in ((1, 0), (0, 1)):
            empty.settle(empty.hand_out(skip), {"perplexity": 21.0, "parameters": 1e8})
            mirror.offer()
    assert mirror.error is None
    after = Runs(empty)
    assert (sorted(after.trials), after.parent.info.status) == ([0, 1, 2], "KILLED")


def test_a_ledger_that_is_down_is_said_once(
    sample: Sample, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ledger, "RETRY", 0.0)
    tries = threading.Semaphore(0)

    def down(uri: str) -> Any:
        tries.release()
        raise ConnectionError(f"nobody listens at {uri}")

    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, "rayduce"):
        patch.setattr(ledger, "open_client", down)
        mirror = Mirror(sample.study, sample.store)
        for _ in range(3):
            mirror.offer()
            assert tries.acquire(timeout=60)
        assert not mirror.close()
    said = [entry.message for entry in caplog.records]
    assert len(said) == 2
    assert "the search goes on: ConnectionError: nobody listens at sqlite" in said[0]
    assert "rayduce sync depth" in said[1]
    sync(sample.store)
    assert Runs(sample).count == 8


def test_sync_with_a_ledger_that_is_down(sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.exceptions import MlflowException

    def down(*_: object, **__: object) -> int:
        raise MlflowException("nobody listens")

    monkeypatch.setattr(Ledger, "update", down)
    with pytest.raises(UserError, match=r"no answer from the ledger sqlite.*nobody listens"):
        sync(sample.store)


def test_close_does_not_wait_for_ever(sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    free = threading.Event()
    monkeypatch.setattr(Ledger, "update", lambda *_, **__: free.wait())
    mirror = Mirror(sample.study, sample.store, timeout=0.1)
    mirror.offer()
    assert not mirror.close()
    free.set()


def test_which_ledger(sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tracking_uri(sample.store) == embedded(sample.store)
    assert embedded(sample.store) == f"sqlite:///{sample.store.folder}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert tracking_uri(sample.store) == "http://127.0.0.1:9"


def test_best_names_the_runs(sample: Sample) -> None:
    from search.ledger.run_ids import run_ids
    from search.report.best import best_json

    sync(sample.store)
    view, runs = read(sample.store), Runs(sample)
    found = best_json(view, best(view), run_ids(sample.store))
    assert [one["run_id"] for one in found["trials"]] == [
        runs.trials[1].info.run_id,
        runs.trials[2].info.run_id,
    ]
