"""Measures the models of a study as they are saved: each is made anew, saved, and loaded in a fresh
process, where it takes turns with the untouched one.

What was measured is kept beside the study, so that the table costs this once.
"""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.export import stages_of
from search.journal.results import Result
from search.journal.store import Store
from search.journal.view import View
from search.rebuild import Plan, Said, bench_for, do_stages
from search.report.papers.comparison import Row, chosen, keep_rows, quality_of, read_rows
from trainables.core.errors import UserError

if TYPE_CHECKING:
    from trainables.bench.bench import Bench
    from trainables.bench.metrics.side_by_side import Looked, SavedModel


def compare(store: Store, view: View, said: Said = lambda text: None) -> list[Row]:
    """The rows of the comparison, in the order of trials, the untouched model first.

    Raises:
        UserError: nothing to compare, or a model that cannot be made or loaded.
    """
    results = chosen(view)
    if not results or not results[0].is_baseline:
        raise UserError(f"{view.study.name}: the untouched model is not measured yet")
    known = {row.lineage: row for row in read_rows(store)}
    missing = [one for one in results if one.lineage not in known]
    if missing:
        with _measuring(store, view, results[0]) as measure:
            for place, result in enumerate(missing, 1):
                said(f"{place}/{len(missing)}: {result.name}, saved and loaded anew")
                row = measure.row(result)
                known[row.lineage] = row
                keep_rows(store, list(known.values()))
    return [known[str(one.lineage)] for one in results]


class _Measure:
    """The bench, and the untouched model as it is saved."""

    def __init__(self, bench: "Bench", store: Store, view: View, folder: Path) -> None:
        self.bench, self.store, self.view, self.folder = bench, store, view, folder
        own = bench.fork()
        self.base, self.base_form = self._saved(own, folder / "0")

    def row(self, result: Result) -> Row:
        """Make a trial's model, save it, and look at it from a fresh process."""
        bench, plan = self.bench.fork(f"{self.view.study.name}/{result.number}"), self._plan(result)
        do_stages(bench, plan.stages)
        place = self.folder / "one"
        saved, form = self._saved(bench, place)
        looked = self._look(saved)
        row = self._row(result, bench, place, form, looked)
        shutil.rmtree(place)
        bench.cache.release()
        return row

    def _plan(self, result: Result) -> Plan:
        return Plan(self.view, result, stages_of(self.view, result), self.store.cache, "")

    def _saved(self, bench: "Bench", place: Path) -> "tuple[SavedModel, str]":
        from trainables.bench.metrics.side_by_side import SavedModel
        from trainables.bench.models.save import EXACT, save

        place.mkdir()
        saved = save(bench.model, None, self.view.study.data.task, place)
        if saved.exact is not None:  # what a padded form adds is not the model's
            for path in place.iterdir():
                if path.name != EXACT:
                    path.unlink()
        load = saved.exact or saved.load
        form = "transformers" if saved.plain and saved.exact is None else "trainables.load"
        return SavedModel(place, load, bench.data.batches("held_out")), form

    def _look(self, saved: "SavedModel") -> "Looked":
        from trainables.bench.metrics.side_by_side import look

        return look(self.base, saved, self.bench.device, self.bench.spec.threads)

    def _row(self, result: Result, bench: "Bench", place: Path, form: str, looked: "Looked") -> Row:
        from trainables.bench.metrics.side_by_side import predictions

        here = predictions(bench.model, bench.data.batches("held_out"))
        steps = [step for step in result.stages if step.changed]
        return Row(
            number=result.number,
            lineage=str(result.lineage),
            methods=tuple(step.label for step in steps),
            runtimes=tuple(step.runtime for step in steps),
            size=sum(path.stat().st_size for path in place.rglob("*") if path.is_file()),
            memory=looked.memory[1],
            quality=self._quality(bench, looked.predicted),
            speed=1.0 if result.is_baseline else looked.speed,
            same=here == looked.predicted,
            loads=form,
        )

    def _quality(self, bench: "Bench", predicted: Sequence[Any]) -> tuple[float, float, float]:
        """Of a classifier from what the fresh process predicted; else as it is measured here, of
        the model whose predictions the fresh one shares."""
        from trainables.core.bootstrap import interval

        metric = quality_of(self.view)
        scores = _of_classes(metric, bench, predicted)
        if scores is None:
            scores = bench.measure([metric], "held_out").scores
        found = interval(metric, scores)
        return found.value, found.low, found.high


def _of_classes(metric: str, bench: "Bench", predicted: Sequence[Any]) -> Any:
    """The scores of what was predicted; None for what is no classifier's accuracy or F1."""
    import numpy as np

    from trainables.core.scores import ItemScores, Scores

    if "classification" not in bench.data.task or metric not in ("accuracy", "macro_f1"):
        return None
    batches = bench.data.batches("held_out")
    wanted = np.array([int(label) for batch in batches for label in batch["labels"]])
    found = np.array([label for batch in predicted for label in batch])
    items = (
        ItemScores("mean", {"value": (found == wanted).astype(float)})
        if metric == "accuracy"
        else ItemScores("macro-f1", {"predicted": found, "wanted": wanted})
    )
    return Scores(bench.data.fingerprint("held_out"), {metric: items})


@contextmanager
def _measuring(store: Store, view: View, baseline: Result) -> Iterator[_Measure]:
    bench = bench_for(Plan(view, baseline, [], store.cache, ""))
    with tempfile.TemporaryDirectory(dir=store.root, prefix=".comparison-") as place:
        yield _Measure(bench, store, view, Path(place))
