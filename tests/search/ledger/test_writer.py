"""The ledger mends itself: deleted, doubled, moved, refused, it ends up with each trial once."""

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from optuna.samplers import RandomSampler

from search.journal.view import View, read
from search.ledger import mirror
from search.ledger.mirror import open_client, open_ledger, sync
from search.ledger.run_fields import allowed, as_metrics, as_params, as_tags, requests
from search.ledger.run_ids import FILE, load_links, run_ids
from search.ledger.writer import Ledger
from tests.support.journals import Sample
from tests.support.ledgers import Runs, migrated_ledger
from trainables.core.errors import UserError


@pytest.fixture(scope="session")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study of two trials and an empty ledger, to be copied."""
    folder = tmp_path_factory.mktemp("searched")
    Sample(folder).run(upto=2).close()
    migrated_ledger(folder / "mlflow.db")
    return folder


@pytest.fixture
def sample(tmp_path: Path, searched: Path) -> Iterator[Sample]:
    shutil.copytree(searched, tmp_path / "runs")
    made = resumed(tmp_path / "runs")
    yield made
    made.close()


def resumed(folder: Path) -> Sample:
    """The study there, to go on with."""
    made = Sample(folder)
    made.journal.begin(RandomSampler(seed=2), [])
    return made


@pytest.fixture
def two(
    tmp_path: Path, sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> tuple[Ledger, Ledger, View]:
    """Two machines with a ledger in common, each with its own folder."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{sample.store.ledger}")
    monkeypatch.chdir(tmp_path)  # where MLflow puts files of a database that is not ours
    shutil.copytree(sample.store.folder, tmp_path / "there")
    here, there = open_ledger(sample.store), open_ledger(sample.store)
    there.store = Sample(tmp_path / "there").store
    here.local = there.local = False
    return here, there, read(sample.store)


# -- names ---------------------------------------------------------------------------------------


def test_names_become_what_mlflow_takes_each_its_own() -> None:
    assert allowed(["recall@10", "recall_10", "f1 (macro)", "a/b", "größe", "recall#10"]) == {
        "recall_10": "recall_10",
        "a/b": "a/b",
        "recall@10": "recall_10_2",
        "f1 (macro)": "f1 _macro_",
        "größe": "gr__e",
        "recall#10": "recall_10_3",
    }
    assert allowed(["/a//b/", "..", "", "./x"]) == {
        **{"..": "_", "./x": "_/x"},
        **{"/a//b/": "_a/_b", "": "__2"},
    }
    long = [f"{'m' * 400}{end}" for end in "ab"]
    assert len(set(allowed(long).values())) == 2
    assert max(map(len, allowed(long).values())) <= 250


def test_a_metric_of_any_name_reaches_the_ledger(sample: Sample) -> None:
    metrics = {"perplexity": 21.0, "parameters": 1e6, "recall@10": 0.5, "../up": 2.0, "a//b": 1.0}
    sample.settle(sample.hand_out(), metrics)
    assert "4 of them new" in sync(sample.store)
    found = Runs(sample).trials[3].data.metrics
    assert found["recall_10"] == 0.5 and found["perplexity"] == 21.0
    assert {2.0, 1.0} < set(found.values())


def test_a_trial_that_is_refused_does_not_stop_the_others(
    sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.exceptions import INVALID_PARAMETER_VALUE, MlflowException

    add = Ledger._add

    def picky(self: Ledger, view: View, result: Any) -> None:
        if result.number == 1:
            raise MlflowException("a name I do not like", INVALID_PARAMETER_VALUE)
        add(self, view, result)

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "_add", picky)
        told = sync(sample.store)
    assert told.endswith("\ntrial 1 was refused: a name I do not like")
    assert sorted(Runs(sample).trials) == [0, 2]
    assert Runs(sample).parent.info.status == "KILLED"  # the study itself is up to date
    sync(sample.store)
    assert sorted(Runs(sample).trials) == [0, 1, 2]


# -- what somebody deleted -----------------------------------------------------------------------


def test_a_deleted_experiment_is_restored_and_said(
    sample: Sample, caplog: pytest.LogCaptureFixture
) -> None:
    sync(sample.store)
    before, client = Runs(sample), open_client(f"sqlite:///{sample.store.ledger}")
    client.delete_experiment(before.parent.info.experiment_id)
    sample.settle(sample.hand_out(), {"perplexity": 21.0, "parameters": 1e6})
    with caplog.at_level(logging.WARNING, "rayduce"):
        assert "1 of them new" in sync(sample.store)
    assert "the experiment rayduce was deleted in MLflow: restored" in caplog.text
    after = Runs(sample)
    assert after.parent.info.run_id == before.parent.info.run_id
    assert sorted(after.trials) == [0, 1, 2, 3]


def test_an_experiment_deleted_under_a_search_is_restored_at_the_next_try(sample: Sample) -> None:
    from mlflow.exceptions import MlflowException

    ledger = open_ledger(sample.store)
    ledger.update(read(sample.store), ending=False)
    ledger.client.delete_experiment(ledger.experiment)
    sample.settle(sample.hand_out(), {"perplexity": 21.0, "parameters": 1e6})
    with pytest.raises(MlflowException, match="active"):
        ledger.update(read(sample.store), ending=False)
    assert ledger.refused == {}
    sync(sample.store)
    assert sorted(Runs(sample).trials) == [0, 1, 2, 3]


def test_a_deleted_parent_is_made_anew_above_the_trials_it_had(
    sample: Sample, caplog: pytest.LogCaptureFixture
) -> None:
    sync(sample.store)
    before = Runs(sample)
    before.client.delete_run(before.parent.info.run_id)
    with caplog.at_level(logging.WARNING, "rayduce"):
        assert "0 of them new" in sync(sample.store)
    assert "the run of study depth was deleted in MLflow: made anew" in caplog.text
    after = Runs(sample)
    assert after.parent.info.run_id != before.parent.info.run_id
    assert {run.data.tags["mlflow.parentRunId"] for run in after.trials.values()} == {
        after.parent.info.run_id
    }
    assert after.parent.data.metrics["perplexity"] == 21.0


# -- two machines at once ------------------------------------------------------------------------


def test_two_machines_that_sync_at_once_end_with_each_trial_once(
    two: tuple[Ledger, Ledger, View], sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there, view = two
    catch_up, opened = Ledger._catch_up, Ledger._open

    def both_look_first(self: Ledger, seen: View, *, fresh: bool) -> None:
        catch_up(self, seen, fresh=fresh)
        if self is here:  # the other one does all of its work after we looked
            there.update(view, ending=True)

    def without_looking(self: Ledger, seen: View, result: Any) -> str:
        self.local = True
        run_id = opened(self, seen, result)
        self.local = False
        return run_id

    monkeypatch.setattr(Ledger, "_catch_up", both_look_first)
    monkeypatch.setattr(Ledger, "_open", without_looking)
    here.update(view, ending=True)
    monkeypatch.undo()
    runs = Runs(sample)
    assert len(runs.parents) == 1 and runs.count == 4 and sorted(runs.trials) == [0, 1, 2]
    assert {run.data.tags["mlflow.parentRunId"] for run in runs.trials.values()} == {
        runs.parent.info.run_id
    }
    assert run_ids(here.store) == {n: run.info.run_id for n, run in runs.trials.items()}
    for ledger in (here, there):
        assert ledger.update(view, ending=True) == 0
    assert Runs(sample).count == 4
    assert load_links(here.store)["runs"] == load_links(there.store)["runs"]


def test_a_machine_that_looks_again_takes_the_others_run(
    two: tuple[Ledger, Ledger, View], sample: Sample
) -> None:
    here, there, view = two
    there.update(view, ending=True)
    here._catch_up(view, fresh=True)
    assert here._open(view, view.results[1]) == Runs(sample).trials[1].info.run_id


# -- moved, torn, garbage ------------------------------------------------------------------------


def test_a_moved_folder_takes_its_artifacts_along(sample: Sample, tmp_path: Path) -> None:
    from mlflow.tracking._tracking_service.utils import _artifact_repos_cache

    sync(sample.store)
    sample.close()
    sample.store.folder.rename(tmp_path / "moved")
    _artifact_repos_cache.clear()  # MLflow's own: another process has its own
    there = resumed(tmp_path / "moved")
    there.settle(there.hand_out(), {"perplexity": 21.0, "parameters": 1e6})
    sync(there.store)
    runs = Runs(there)
    assert sorted(runs.trials) == [0, 1, 2, 3]
    for run in [runs.parent, *runs.trials.values()]:
        assert run.info.artifact_uri.startswith((tmp_path / "moved" / "mlartifacts").as_uri())
    assert "number = 3" in runs.artifact(runs.trials[3], "trial.toml")
    assert "number = 1" in runs.artifact(runs.trials[1], "trial.toml")
    assert not (tmp_path / "runs").exists()
    there.close()


@pytest.mark.parametrize(
    "text",
    [
        "",
        '{"uri": "x", "experiment": "1", "parent": "a", "runs": {"1": {}}}',
        *(pytest.param(one, marks=pytest.mark.slow) for one in ("[]", '{"runs": []}')),
    ],
)
def test_a_torn_file_of_links_is_made_anew(sample: Sample, text: str) -> None:
    sync(sample.store)
    links = load_links(sample.store)
    (sample.store.root / FILE).write_text(text)
    assert run_ids(sample.store) == {}
    assert "0 of them new" in sync(sample.store)
    assert load_links(sample.store) == links


def test_a_ledger_that_is_no_database_is_one_message(sample: Sample) -> None:
    sample.store.ledger.write_text("garbage " * 1000)
    with pytest.raises(UserError) as caught:
        sync(sample.store)
    assert "mlflow.db is no ledger of MLflow's: file is not a database; move it" in str(
        caught.value
    )
    assert caught.value.__suppress_context__


def test_a_driver_killed_while_the_ledger_was_made_leaves_none(
    sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample.store.ledger.unlink()

    def killed(uri: str) -> Any:
        Path(unquote(uri.removeprefix("sqlite:///"))).write_bytes(b"half of its tables")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(mirror, "open_client", killed)
        open_ledger(sample.store)
    assert not sample.store.ledger.exists()
    assert "3 of them new" in sync(sample.store)
    left = [path.name for path in sample.store.folder.glob(".mlflow*")]
    assert left in ([], [".mlflow.lock"])


def test_no_password_of_a_ledger_is_kept_or_told(
    sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = open_ledger(sample.store)
    ledger.uri = "postgresql://me:s3cret@host/mlflow"
    assert ledger.name == "postgresql://me@host/mlflow"
    ledger.update(read(sample.store), ending=True)
    for path in sample.store.root.rglob("*"):
        assert path.is_dir() or b"s3cret" not in path.read_bytes(), path


def test_a_path_with_the_signs_of_a_url(tmp_path: Path, searched: Path) -> None:
    shutil.copytree(searched, tmp_path / "a?b#c%25 d")
    made = Sample(tmp_path / "a?b#c%25 d")
    sync(made.store)
    assert (made.store.artifacts).is_dir()
    assert sorted(Runs(made).trials) == [0, 1, 2]
    assert [path.name for path in tmp_path.iterdir()] == ["a?b#c%25 d"]
    made.close()


def test_more_than_a_request_holds_goes_in_several(sample: Sample) -> None:
    """MLflow takes 100 parameters at a time; a space may have more."""
    ledger = open_ledger(sample.store)
    run_id = ledger.client.create_run("0").info.run_id
    metrics = as_metrics([(f"m{n}", float(n), 0) for n in range(1700)], 0)
    params = as_params({f"p{n}": n for n in range(120)})
    for request in requests(metrics, params, as_tags({"story": "long"})):
        ledger.client.log_batch(run_id, **request)
    data = ledger.client.get_run(run_id).data
    assert len(data.metrics) == 1700 and data.metrics["m1699"] == 1699
    assert len(data.params) == 120 and data.params["p119"] == "119"
    assert data.tags["story"] == "long"
