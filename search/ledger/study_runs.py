"""A study as its MLflow runs have it: enough to choose by, from a machine that never saw it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from search.journal.results import ENDED, Result
from search.journal.store import Store
from search.journal.view import View, with_front
from search.ledger.commands import export_line, reaching
from search.ledger.lookup import experiment_name, tagged
from search.ledger.mirror import embedded, open_client, told, tracking_uri
from search.ledger.run_fields import TOKEN, UID, VIEW, allowed
from search.ledger.run_files import read_trial
from search.ledger.run_ids import RUN_ID
from search.report.best import Best
from search.study.schema import Study
from trainables.core.errors import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


@dataclass(frozen=True)
class StudyRuns:
    """A study's trials as far as their runs say them in a few requests.

    Attributes:
        runs: trial number -> its run.
        place: the flag by which commands find this ledger.
    """

    client: "MlflowClient"
    view: View
    runs: Mapping[int, str]
    place: str

    def whole(self, found: Best) -> Best:
        """The same trials with all that their runs' files hold of them."""
        chosen = {one.number: one for one in found.trials}
        for number, one in chosen.items():
            _, read = read_trial(self.client, self.runs[number])
            chosen[number] = replace(read, on_front=one.on_front)
        return replace(found, trials=tuple(chosen.values()))

    def steps(self, found: Best) -> list[str]:
        """What makes each trial's model, a line each."""
        return [
            f"trial {one.number}: {export_line(self.runs[one.number], self.place)}"
            for one in found.trials
        ]


def read_study(store: Store) -> StudyRuns:
    """The runs of the study that a store names, or whose run's id it gives.

    Raises UserError: no such study, several of that name, no answer.
    """
    uri, name = tracking_uri(store), store.study
    local = uri == embedded(store)
    if local and not store.ledger.is_file():
        raise UserError(f"no ledger in {store.folder}", do="name the server with --mlflow")
    with told(store):
        client = open_client(uri)
        runs = _of_study(client, name)
    trials: dict[int, Run] = {}
    for run in runs:
        if UID in run.data.tags and run.data.tags.get("state") in ENDED:
            trials.setdefault(int(run.data.tags[UID].rpartition("-")[2]), run)
    if 0 not in trials:
        do = "wait for it, or rayduce sync it where it was launched"
        raise UserError(f"study {name}: the ledger has no untouched model yet", do=do)
    ids = {number: str(run.info.run_id) for number, run in trials.items()}
    study = read_trial(client, ids[0])[0].study
    results = list(_results(study, trials))
    place = reaching(store, None if local else uri)
    return StudyRuns(client, View(study, tuple(with_front(results, study))), ids, place)


def _of_study(client: "MlflowClient", name: str) -> "list[Run]":
    """All runs of one study, by its name or by the id of any of its runs."""
    experiment = client.get_experiment_by_name(experiment_name())
    if experiment is None:
        do = "set MLFLOW_EXPERIMENT_NAME, if the studies lie in another one"
        raise UserError("no such experiment in the ledger", got=experiment_name(), do=do)
    tag, value = "study", name
    if RUN_ID.fullmatch(name):
        tag, value = TOKEN, client.get_run(name).data.tags.get(TOKEN, "")
    found = list(tagged(client, experiment.experiment_id, value, tag)) if "'" not in value else []
    if not found:
        known = sorted(key.removeprefix(VIEW) for key in experiment.tags if key.startswith(VIEW))
        allowed = ", ".join(known) or "nothing yet"
        raise UserError("no such study in the ledger", got=name, allowed=allowed)
    parents = [run.info.run_id for run in found if UID not in run.data.tags]
    if len({run.data.tags.get(TOKEN) for run in found}) > 1:
        do = "name one by the id of its run"
        ids = ", ".join(parents)
        raise UserError("several studies have this name", got=name, allowed=ids, do=do)
    return sorted(found, key=lambda run: str(run.info.run_id))


def _results(study: Study, trials: Mapping[int, "Run"]) -> Iterator[Result]:
    """Trials in order; one without a run yet is one that still runs."""
    names = allowed(study.metrics_measured)
    base = _metrics(names, trials[0])
    for number in range(max(trials) + 1):
        if (run := trials.get(number)) is None:
            yield Result(number, "running", {}, {}, {}, {})
        else:
            yield _result(study, number, run, _metrics(names, run), base)


def _metrics(names: Mapping[str, str], run: "Run") -> dict[str, float]:
    found = run.data.metrics
    return {name: float(found[there]) for name, there in names.items() if there in found}


def _result(
    study: Study, number: int, run: "Run", metrics: dict[str, float], base: Mapping[str, float]
) -> Result:
    tags = run.data.tags
    missed = {
        limit.key: limit.violation(metrics[limit.metric], base.get(limit.metric))
        for limit in study.limits
        if limit.metric in metrics
    }
    record: dict[str, Any] = {name: tags.get(name) for name in ("lineage", "same_as", "reason")}
    return Result(number, tags["state"], {}, metrics, missed, record)
