"""Looks at held-out data for the best trials of a study, once: `rayduce confirm NAME`.

The untouched model, the front and the trials next to it are replayed and measured. What comes of
one of them is a note in the journal, written when it is there, so that a run that was killed goes
on, and what is known is never measured again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from search.export import stages_of
from search.journal.confirmed import NOTE, confirmed, note_of
from search.journal.journal import Journal
from search.journal.lock import study_lock
from search.journal.results import Result
from search.journal.store import Store, open_storage
from search.journal.view import View, read
from search.launch import fetch_assets, open_journal
from search.rebuild import Said, bench_of, do_stages
from search.report.best import best
from search.report.format import story
from trainables.core.errors import UserError
from trainables.core.scores import Scores, from_text

if TYPE_CHECKING:
    from trainables.bench.bench import Bench

NEXT = 3  # trials beside the front that are measured too: they may be better than it


def confirm(store: Store, said: Said = lambda text: None) -> View:
    """Measure what was not measured before; returns the study as it then is.

    Raises:
        UserError: a study that runs, one without a baseline, data or a model that changed.
    """
    with study_lock(store) as driver:
        view = read(store)
        view.refuse_routing("its trials are measured on held-out data as they are")
        wanted = chosen(view)
        todo = [one for one in wanted if one.number not in confirmed(view.notes)]
        if not todo:
            said("all of it was confirmed before; nothing is measured again")
            return view
        fetch_assets(view.study)
        storage = open_storage(store)
        journal = open_journal(view.study, storage, driver)
        try:
            _Confirming(view, journal, store, said).run(todo)
        finally:
            journal.close()
            storage.engine.dispose()
    return read(store)


def chosen(view: View) -> list[Result]:
    """The untouched model, the front, and the trials next to it."""
    if view.baseline is None:
        raise UserError(f"study {view.study.name} has no baseline yet", do="launch it first")
    shown = best(view).trials
    on_front = sum(one.on_front for one in shown)
    return [view.baseline, *best(view, top=on_front + NEXT).trials]


@dataclass
class _Confirming:
    """One run of it: the journal is ours."""

    view: View
    journal: Journal
    store: Store
    said: Said

    def run(self, todo: Sequence[Result]) -> None:
        """Measure these, the untouched model first, as all are held against it."""
        self.said("loading the model and the data")
        bench = bench_of(self.view.study, self.store.cache, metrics=())
        _check(self.view, bench)
        for number, result in enumerate(sorted(todo, key=lambda one: one.number), 1):
            self.said(f"{number} of {len(todo)}: {result.name} on held-out data: {story(result)}")
            try:
                self._one(bench, result)
            except UserError as error:  # of its stages: the others are measured all the same
                if result.is_baseline:
                    raise
                self.said(f"warning: {result.name} is not confirmed: {error}")
            finally:
                bench.cache.release()

    def _one(self, bench: "Bench", result: Result) -> None:
        own = bench.fork(f"{self.view.study.name}/{result.number}")
        record = do_stages(own, stages_of(self.view, result))
        if result.lineage not in (None, record["lineage"]):
            self.said(f"warning: {result.name} is not bit for bit the model of the search")
        found = own.measure(self.view.study.metrics_measured, "held_out")
        values, scores = found.values, found.scores
        base = (values, scores) if result.is_baseline else self._baseline()
        note = note_of(values, scores, *base, self.view.study.limits)
        self.journal.note(f"{NOTE}{result.number}", note | _origin(own, record, found.alone))

    def _baseline(self) -> tuple[dict[str, float], Scores]:
        note = self.journal.noted(f"{NOTE}0")
        return dict(note["metrics"]), from_text(note["scores"])


def _origin(bench: "Bench", record: dict[str, Any], alone: Any) -> dict[str, Any]:
    """Where the numbers come from."""
    return {
        "lineage": record["lineage"],
        "hardware": record["hardware"],
        "alone": dict(alone),
        "data": bench.base.reading.data.fingerprint("held_out"),
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _check(view: View, bench: "Bench") -> None:
    """Raises UserError where these are not the model and the data of the search."""
    assert view.baseline is not None
    then = view.baseline.record.get("data") or {}
    now = {role: bench.base.reading.data.fingerprint(role) for role in then}
    if changed := [role for role in then if then[role] != now[role]]:
        raise UserError(
            f"study {view.study.name}: the {' and '.join(changed)} data changed since its search",
            do="put back what was there",
        )
