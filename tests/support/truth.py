"""What must hold of a study whatever was broken under it."""

from collections import Counter
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState

from search.journal.results import Result
from search.journal.store import Store
from search.journal.view import read
from search.ledger.mirror import open_client


def nothing_lost(
    store: Store, budget: int, before: list[FrozenTrial], after: list[FrozenTrial], ledger: str
) -> None:
    """Every trial is there once, in the journal and in the ledger, and the budget is met.

    Args:
        before: the journal's rows when something was broken.
        after: in the end.
        ledger: MLflow's address.
    """
    view = read(store)
    counts = view.counts
    assert view.state == "finished" and view.driver is None
    assert counts["finished"] == budget and counts["failed"] == 0
    assert [row.number for row in after] == list(range(len(after)))
    assert {row.state for row in after} == {TrialState.COMPLETE}
    told = {row.number: row for row in after}
    for row in before:
        assert told[row.number].params == row.params
        if row.state == TrialState.COMPLETE:  # what had ended was not measured again
            assert told[row.number].values == row.values
            assert told[row.number].datetime_complete == row.datetime_complete
    assert runs_of(ledger, store.study) == Counter(one.number for one in view.results)
    assert not duplicates(view.results)


def runs_of(ledger: str, study: str) -> "Counter[int]":
    """Trial number -> how many runs it has."""
    client = open_client(ledger)
    experiment = client.get_experiment_by_name("rayduce")
    assert experiment is not None
    found = client.search_runs(
        [experiment.experiment_id], f"tags.study = '{study}'", max_results=1000
    )
    uids = [run.data.tags.get("rayduce.uid") for run in found]
    assert uids.count(None) == 1  # one parent
    assert {run.info.status for run in found} == {"FINISHED"}
    return Counter(int(uid.rpartition("-")[2]) for uid in uids if uid is not None)


def duplicates(results: tuple[Result, ...]) -> list[str]:
    """Uids that two trials have."""
    counted = Counter(str(one.record.get("uid")) for one in results)
    return [uid for uid, count in counted.items() if count > 1]


def embedded(folder: Path) -> str:
    """The ledger beside the studies."""
    return f"sqlite:///{folder}/runs/mlflow.db"
