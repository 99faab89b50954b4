"""What a launch shows: a live table on a terminal, one line per event elsewhere.

Nothing here looks at all trials again when one ends: counts and the front are kept up to date.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from search.journal.results import Result, distinct, losses
from search.journal.view import View
from search.report.format import brief, cell, story
from search.report.tables import result_table
from search.study.schema import Study

KEPT = 8  # rows of the front on the screen


@dataclass
class Progress:
    """What changes while a study runs; the counts leave out the baseline."""

    objectives: Mapping[str, str]
    phase: str = "starting"
    began: float = field(default_factory=time.time)
    before: int = 0  # trials that earlier launches ended
    ended: int = 0
    failed: int = 0
    repeats: int = 0  # of those that ended: their model was known
    models: set[str] = field(default_factory=set)  # lineages
    baseline: Result | None = None
    front: list[Result] = field(default_factory=list)  # by the first objective, best first
    running: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)

    def begin(self, results: Sequence[Result]) -> None:
        """Count what earlier launches ended."""
        for result in results:
            if result.ended:
                self.add(result)
        self.before, self.began = self.ended, time.time()

    def add(self, result: Result) -> bool:
        """Count a trial that ended; whether it is on the front."""
        if result.state == "complete" and result.lineage is not None:
            self.repeats += result.lineage in self.models
            self.models.add(result.lineage)
        if result.number > 0:
            self.ended += 1
            self.failed += result.state == "fail"
        elif result.state == "complete":
            self.baseline = result
        return result.feasible and self._enter(result)

    @property
    def measured(self) -> int:
        """How many trials took a place in the budget."""
        return self.ended - self.repeats

    def _enter(self, result: Result) -> bool:
        values = losses(result, self.objectives)
        others = [(losses(one, self.objectives), one) for one in self.front]
        if any(_dominates(other, values) for other, _ in others):
            return False
        left = [(other, one) for other, one in others if not _dominates(values, other)]
        left.append((values, result))
        self.front = [one for _, one in sorted(left, key=lambda pair: (pair[0], pair[1].number))]
        return True


def _dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


class Screen:
    """A live table: progress, rate, time left, the front so far."""

    def __init__(self, study: Study, console: Console) -> None:
        self.study, self.console = study, console
        self.now = Progress(study.objectives)
        self.live = Live(get_renderable=self.render, console=console, refresh_per_second=4)

    def __enter__(self) -> "Screen":
        self.live.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.live.__exit__(None, None, None)

    def phase(self, text: str) -> None:
        """Show what is being done; a warning stays above the table."""
        if text.startswith("warning: "):
            self.console.print(Text(text, style="yellow"))
        else:
            self.now.phase = text

    def begin(self, results: Sequence[Result]) -> None:
        """Show what there was."""
        self.now.begin(results)

    def ended(self, result: Result) -> None:
        """Show a trial that ended."""
        self.now.add(result)

    def running(self, trials: Mapping[int, Mapping[str, Any]]) -> None:
        """Show what runs."""
        self.now.running = dict(trials)

    def render(self) -> RenderableType:
        """The screen now."""
        parts: list[RenderableType] = [self._head()]
        if front := distinct(self.now.front):
            title = f"front: {sum(r.number > 0 for r in front)} of {self.now.ended} trials"
            base = [self.now.baseline] if self.now.baseline else []
            parts.append(result_table(View(self.study, tuple(base)), front[:KEPT], title))
        for number, params in sorted(self.now.running.items()):
            parts.append(Text(f"  running  trial {number}  {brief(params)}", style="dim"))
        return Group(*parts)

    def _head(self) -> Table:
        grid = Table.grid(padding=(0, 2))
        failed, again, planned = self.now.failed, self.now.repeats, self.study.budget.trials
        grid.add_row(
            Text(self.study.name, style="bold"),
            Text(self.now.phase),
            Text(f"{self.now.measured}/{planned or '…'} trials", style="cyan"),
            Text(f"{failed} failed", style="red") if failed else Text(""),
            Text(f"{again} repeats") if again else Text(""),
            Text(pace(self.now, planned)),
        )
        return grid


class Lines:
    """One line per event, for logs."""

    def __init__(self, study: Study, console: Console) -> None:
        self.study, self.console = study, console
        self.now = Progress(study.objectives)

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def phase(self, text: str) -> None:
        """Say what is being done."""
        self._say(f"{self.study.name}: {text}")

    def begin(self, results: Sequence[Result]) -> None:
        """Say how much there was; nothing of what was said before."""
        self.now.begin(results)
        if self.now.ended:
            self._say(f"{self.study.name}: {self.now.ended} trials ended before")

    def ended(self, result: Result) -> None:
        """Say how a trial ended."""
        on_front = self.now.add(result)
        self._say(event(result, self.study, on_front=on_front))

    def running(self, trials: Mapping[int, Mapping[str, Any]]) -> None:
        """Nothing: a log has the ends."""

    def _say(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)


def event(result: Result, study: Study, *, on_front: bool = False) -> str:
    """A finished trial in a line."""
    if result.state != "complete":
        return f"{result.name}  {result.state}  {result.reason or ''}"
    metrics = "  ".join(f"{m} {cell(m, result.metrics[m])}" for m in study.objectives)
    marks = "front" if on_front else "" if result.feasible else "misses a constraint"
    same = f"same model as {result.same_as}" if result.same_as else ""
    parts = (result.name, metrics, marks, same, story(result))
    return "  ".join(part for part in parts if part)


def pace(now: Progress, planned: int | None) -> str:
    """Trials per hour of this launch, and the time left at that rate."""
    ended, seconds = now.ended - now.before, time.time() - now.began
    if ended < 1 or seconds <= 0:
        return ""
    text = f"{ended / seconds * 3600:.0f} trials/h"
    left = (planned or 0) - now.measured
    if left > 0:
        text += f"  {clock(left * seconds / ended)} left"
    return text


def clock(seconds: float) -> str:
    """2:05:07, or 5:07."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
