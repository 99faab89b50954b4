"""Projects a journal onto MLflow: one run per trial below one per study, found by their tags.

Run again it changes nothing: timestamps and steps come from the journal.
"""

import logging
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.journal.results import Result
from search.journal.store import Store
from search.journal.view import View
from search.ledger.commands import reaching, study_steps, trial_steps
from search.ledger.lookup import find_runs, open_experiment
from search.ledger.run_fields import (
    NOTE,
    PARENT,
    TOKEN,
    UID,
    VIEW,
    as_metrics,
    as_params,
    as_tags,
    held_out_of,
    metrics_of,
    millis,
    params_of,
    requests,
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
from search.study.database import hidden, redacted

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger("rayduce")

REFUSALS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_ALREADY_EXISTS")  # of one trial
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
        refused: trial number -> why MLflow does not take it.
    """

    store: Store
    client: "MlflowClient"
    uri: str
    local: bool
    experiment: str = ""
    parent: str = ""
    known: dict[str, dict[str, str]] = field(default_factory=dict)
    torn: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    drawn: float = -math.inf
    shown: tuple[int, ...] | None = None  # the front as drawn last

    @property
    def name(self) -> str:
        """The ledger's address, as messages and files may hold it."""
        return redacted(self.uri)

    @property
    def _place(self) -> str:
        """The flag by which commands find this ledger."""
        return reaching(self.store, None if self.local else self.uri)

    def update(self, view: View, *, ending: bool) -> int:
        """Bring MLflow up to date; returns how many trials were added.

        Args:
            ending: nobody goes on with the study for now.
        """
        from filelock import FileLock

        with FileLock(self.store.root / "ledger.lock"):
            self._catch_up(view, fresh=ending and not self.local)
            ended = [one for one in (*view.results, *view.parts) if one.ended]
            self._forget_retried(ended)
            seen = self.known.keys() | self.refused.keys()
            new = [one for one in ended if key_of(one) not in seen]
            added = sum([self._added(view, result) for result in new])
            if added and not self.local:
                self._learn(view)  # another machine may have added the same
            self._mark_front(view)
            self._confirm(view)
            self._study(view, ending)
            save_links(self.store, self._links())
        return added

    def _forget_retried(self, ended: Sequence[Result]) -> None:
        """Trials that had failed, and came to a result when they ran again: in the same runs."""
        for result in ended:
            number, state = key_of(result), self.known.get(key_of(result), {}).get("state")
            if state == "fail" and result.state != "fail":
                run_id = self.known.pop(number)["run_id"]
                self.client.delete_tag(run_id, "reason")
                self.client.update_run(run_id, name=run_name(result))
                self.torn[number] = run_id

    def _links(self) -> dict[str, Any]:
        return {
            "uri": self.name,
            "experiment": self.experiment,
            "parent": self.parent,
            "runs": self.known,
        }

    # -- what is there already ------------------------------------------------------------

    def _catch_up(self, view: View, *, fresh: bool) -> None:
        """Learn of the runs that another process, or an earlier one, has made."""
        links = load_links(self.store)
        if not fresh and self.parent and links.get("parent") == self.parent:
            self.known = links["runs"]
            return
        self.experiment = open_experiment(self.client, self.store, local=self.local)
        self._learn(view)

    def _learn(self, view: View) -> None:
        """Find the runs by their tags."""
        found = find_runs(self.client, self.experiment, view.notes["token"])
        parent = found.pop("", None)
        if parent is None and found:
            log.warning("the run of study %s was deleted in MLflow: made anew", view.study.name)
        self.parent = parent.info.run_id if parent else self._open_parent(view)
        self.known, self.torn = {}, {}
        for number, run in found.items():
            run_id, tags = run.info.run_id, run.data.tags
            if tags.get(PARENT) != self.parent:
                self.client.set_tag(run_id, PARENT, self.parent)
            if run.info.status == "RUNNING":
                self.torn[number] = run_id
            else:
                self.known[number] = {
                    "run_id": run_id,
                    "front": tags.get("front", "no"),
                    "state": tags.get("state", ""),
                    "holds": tags.get("holds", ""),
                }

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

    def _added(self, view: View, result: Result) -> bool:
        """Whether MLflow took a trial; what it finds wrong with one does not stop the others."""
        from mlflow.exceptions import MlflowException

        try:
            self._add(view, result)
        except MlflowException as error:
            if error.error_code not in REFUSALS or not self._open_for_runs():
                raise
            self.refused[key_of(result)] = hidden(str(error).splitlines()[0])[:200]
            return False
        return True

    def _open_for_runs(self) -> bool:
        """Whether it is not for want of the experiment that a trial was refused."""
        return str(self.client.get_experiment(self.experiment).lifecycle_stage) == "active"

    def _add(self, view: View, result: Result) -> None:
        number, front = key_of(result), _front(result)
        run_id = self.torn.get(number) or self._open(view, result)
        tags = {**tags_of(view, result), "front": front, **source_tags(view)}
        if view.study.route is None:  # whose trials are made into models by other commands
            tags[NOTE] = tags.get(NOTE, "") + trial_steps(result, run_id, self._place)
        params = as_params(params_of(result))
        for request in requests(metrics_of(result), params, as_tags(tags)):
            self.client.log_batch(run_id, **request)
        self.log_files(run_id, trial_files(view, result))
        self.client.set_terminated(run_id, STATES[result.state], millis(result.stopped))
        state = result.state
        self.known[number] = {"run_id": run_id, "front": front, "state": state, "holds": ""}
        self.torn.pop(number, None)

    def _open(self, view: View, result: Result) -> str:
        token = view.notes["token"]
        uid = f"{token}-{result.part and f'{result.part}-'}{result.number:05d}"
        if not self.local:  # another machine may be at it
            for run in self.client.search_runs([self.experiment], f"tags.`{UID}` = '{uid}'"):
                return str(run.info.run_id)
        tags = {UID: uid, TOKEN: token, PARENT: self.parent}
        run = self.client.create_run(
            self.experiment, millis(result.started), tags, run_name=run_name(result)
        )
        self.torn[key_of(result)] = str(run.info.run_id)
        return str(run.info.run_id)

    def _mark_front(self, view: View) -> None:
        """Trials leave the front when better ones come."""
        for result in view.results:
            run = self.known.get(str(result.number))
            if run is not None and run["front"] != _front(result):
                self.client.set_tag(run["run_id"], "front", _front(result))
                run["front"] = _front(result)

    def _confirm(self, view: View) -> None:
        """What held-out data says, once; whether a trial holds may change with those after it."""
        for number in view.confirmed:
            run = self.known.get(str(number))
            values, tags = held_out_of(view, view.results[number]) if run else ({}, {})
            if run is None or run.get("holds", "") == tags.get("holds", ""):
                continue
            found = [(name, value, 0) for name, value in values.items()]
            when = millis(view.results[number].stopped)
            metrics = [] if run.get("holds") else as_metrics(found, when)
            self.client.log_batch(run["run_id"], metrics=metrics, tags=as_tags(tags))
            run["holds"] = tags["holds"]

    # -- the study --------------------------------------------------------------------------

    def _study(self, view: View, ending: bool) -> None:
        ended = [result for result in view.results if result.ended]
        when = millis(ended[-1].stopped if ended else None)
        state = replace(view, driver=None).state if ending else "running"
        found = best(view)
        chosen = self.known.get(str(found.trials[0].number)) if found.trials else None
        chosen = None if view.study.route is not None else chosen
        steps = study_steps(view.study.name, chosen["run_id"] if chosen else None, self._place)
        note = f"{steps}\n\n{best_table_markdown(view, found)}"  # a long table may be cut
        tags = {"state": state, NOTE: note, **source_tags(view)}
        values = [
            (key, value, len(ended)) for key, value in study_values(view, whole=ending).items()
        ]
        metrics = as_metrics(values, when)
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
            for name in view.notes.get("files") or ():  # whatever else the study has made
                self.client.log_artifact(self.parent, str(self.store.root / name))
            key = f"{VIEW}{view.study.name}"
            self.client.set_experiment_tag(self.experiment, key, shared_view(view))
            self.drawn, self.shown = time.monotonic(), shown

    def log_files(self, run_id: str, files: Mapping[str, str]) -> None:
        """Texts as a run's artifacts, by name."""
        with tempfile.TemporaryDirectory(prefix="rayduce-") as folder:
            for name, text in files.items():
                Path(folder, name).write_text(text, encoding="utf-8")
            self.client.log_artifacts(run_id, folder)


def key_of(result: Result) -> str:
    """What a trial, or a step on the way to trials, is called here: its number, with its part."""
    return f"{result.part}-{result.number}" if result.part else str(result.number)


def _front(result: Result) -> str:
    return "yes" if result.on_front else "no"
