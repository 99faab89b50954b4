"""Projects a journal onto MLflow: one run per trial below one per study, found by their tags.

Run again it changes nothing: timestamps and steps come from the journal.
"""

import math
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.journal.results import Result
from search.journal.store import Store
from search.journal.view import View
from search.ledger.run_fields import (
    PARENT,
    TOKEN,
    UID,
    VIEW,
    as_metric,
    as_params,
    as_tags,
    batches,
    metrics_of,
    millis,
    params_of,
    run_name,
    shared_view,
    source_tags,
    study_files,
    study_params,
    study_values,
    tags_of,
    trial_files,
)
from search.ledger.run_ids import load_links, save_links
from search.report.best import best
from search.report.tables import best_table_markdown

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

PROJECT = "rayduce"
STATES = {"complete": "FINISHED", "fail": "FAILED", "pruned": "KILLED"}
STUDY_STATES = {"finished": "FINISHED", "interrupted": "KILLED", "new": "KILLED"}
PLOTS_EVERY = 60.0  # seconds between two drawings of the front during a search


@dataclass
class Ledger:
    """One study's runs.

    Attributes:
        local: whether `uri` is the file beside the studies.
        known: trial number -> its run's id, and what its tag `front` says.
        torn: trial number -> the run that a driver began and did not finish.
    """

    store: Store
    client: "MlflowClient"
    uri: str
    local: bool
    experiment: str = ""
    parent: str = ""
    known: dict[str, dict[str, str]] = field(default_factory=dict)
    torn: dict[str, str] = field(default_factory=dict)
    drawn: float = -math.inf
    shown: tuple[int, ...] | None = None  # the front as drawn last

    def update(self, view: View, *, ending: bool) -> int:
        """Bring MLflow up to date; returns how many trials were added.

        Args:
            ending: nobody goes on with the study for now.
        """
        from filelock import FileLock

        with FileLock(self.store.root / "ledger.lock"):
            self._catch_up(view)
            ended = [one for one in view.results if one.ended]
            self._forget_retried(ended)
            new = [one for one in ended if str(one.number) not in self.known]
            for result in new:
                self._add(view, result)
            self._mark_front(view)
            self._study(view, ending)
            save_links(self.store, self._links())
        return len(new)

    def _forget_retried(self, ended: Sequence[Result]) -> None:
        """Trials that had failed, and came to a result when they ran again: in the same runs."""
        for result in ended:
            number, state = str(result.number), self.known.get(str(result.number), {}).get("state")
            if state == "fail" and result.state != "fail":
                run_id = self.known.pop(number)["run_id"]
                self.client.delete_tag(run_id, "reason")
                self.client.update_run(run_id, name=run_name(result))
                self.torn[number] = run_id

    def _links(self) -> dict[str, Any]:
        return {
            "uri": self.uri,
            "experiment": self.experiment,
            "parent": self.parent,
            "runs": self.known,
        }

    # -- what is there already ------------------------------------------------------------

    def _catch_up(self, view: View) -> None:
        """Learn of the runs that another process, or an earlier one, has made."""
        links = load_links(self.store)
        if self.parent and links.get("parent") == self.parent:
            self.known = links["runs"]
            return
        self.experiment = self.find_experiment()
        self.known, self.torn = {}, {}
        for run in self._tagged(view.notes["token"]):
            tags, run_id = run.data.tags, run.info.run_id
            number = str(int(tags[UID].rpartition("-")[2])) if UID in tags else ""
            if not number:
                self.parent = run_id
            elif run.info.status == "RUNNING":
                self.torn[number] = run_id
            else:
                self.known[number] = {
                    "run_id": run_id,
                    "front": tags.get("front", "no"),
                    "state": tags.get("state", ""),
                }
        self.parent = self.parent or self._open_parent(view)

    def find_experiment(self) -> str:
        """The experiment that all studies share."""
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT
        found = self.client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        place = self.store.artifacts.as_uri() if self.local else None
        tags = {"mlflow.experimentKind": "custom_model_development"}  # which of its pages to show
        return str(self.client.create_experiment(name, artifact_location=place, tags=tags))

    def _tagged(self, token: str) -> Iterator["Run"]:
        page = None
        while True:
            found = self.client.search_runs(
                [self.experiment], f"tags.`{TOKEN}` = '{token}'", max_results=1000, page_token=page
            )
            yield from found
            page = found.token
            if not page:
                return

    def _open_parent(self, view: View) -> str:
        study, started = view.study, view.results[0].started if view.results else None
        tags = {
            TOKEN: view.notes["token"],
            "study": study.name,
            "space": study.space.name,
            **source_tags(view),
        }
        run = self.client.create_run(self.experiment, millis(started), tags, run_name=study.name)
        self.client.log_batch(run.info.run_id, params=as_params(study_params(study)))
        return str(run.info.run_id)

    # -- trials -----------------------------------------------------------------------------

    def _add(self, view: View, result: Result) -> None:
        number, front = str(result.number), _front(result)
        run_id = self.torn.pop(number, None) or self._open(view, result)
        tags = {**tags_of(view, result), "front": front, **source_tags(view)}
        params = as_params(params_of(result))
        self.client.log_batch(run_id, params=params, tags=as_tags(tags))
        for metrics in batches(metrics_of(result)):
            self.client.log_batch(run_id, metrics=metrics)
        self.log_files(run_id, trial_files(view, result))
        self.client.set_terminated(run_id, STATES[result.state], millis(result.stopped))
        self.known[number] = {"run_id": run_id, "front": front, "state": result.state}

    def _open(self, view: View, result: Result) -> str:
        token = view.notes["token"]
        tags = {UID: f"{token}-{result.number:05d}", TOKEN: token, PARENT: self.parent}
        run = self.client.create_run(
            self.experiment, millis(result.started), tags, run_name=run_name(result)
        )
        return str(run.info.run_id)

    def _mark_front(self, view: View) -> None:
        """Trials leave the front when better ones come."""
        for result in view.results:
            run = self.known.get(str(result.number))
            if run is not None and run["front"] != _front(result):
                self.client.set_tag(run["run_id"], "front", _front(result))
                run["front"] = _front(result)

    # -- the study --------------------------------------------------------------------------

    def _study(self, view: View, ending: bool) -> None:
        ended = [result for result in view.results if result.ended]
        when = millis(ended[-1].stopped if ended else None)
        state = replace(view, driver=None).state if ending else "running"
        note = best_table_markdown(view, best(view))
        tags = {"state": state, "mlflow.note.content": note, **source_tags(view)}
        metrics = [
            as_metric(key, value, when, len(ended)) for key, value in study_values(view).items()
        ]
        self.client.log_batch(self.parent, metrics=metrics, tags=as_tags(tags))
        self._draw(view, ending)
        if ending:
            self.client.set_terminated(self.parent, STUDY_STATES[state], when)
        else:
            self.client.update_run(self.parent, status="RUNNING")

    def _draw(self, view: View, ending: bool) -> None:
        """The front as files: at the end, and on the way when it changed, but not too often."""
        shown = tuple(result.number for result in view.results if result.on_front)
        due = shown != self.shown and time.monotonic() - self.drawn > PLOTS_EVERY
        if ending or due:
            self.log_files(self.parent, study_files(view))
            key = f"{VIEW}{view.study.name}"
            self.client.set_experiment_tag(self.experiment, key, shared_view(view))
            self.drawn, self.shown = time.monotonic(), shown

    def log_files(self, run_id: str, files: Mapping[str, str]) -> None:
        """Texts as a run's artifacts, by name."""
        with tempfile.TemporaryDirectory(prefix="rayduce-") as folder:
            for name, text in files.items():
                Path(folder, name).write_text(text, encoding="utf-8")
            self.client.log_artifacts(run_id, folder)


def _front(result: Result) -> str:
    return "yes" if result.on_front else "no"
