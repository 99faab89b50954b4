"""What a launch shows: a live table on a terminal, one line per event elsewhere."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from search.engine.dispatch import Plan
from search.journal.journal import Journal
from search.journal.results import Result, distinct, front
from search.journal.view import results_of
from search.launch import Watcher
from search.report.format import brief, cell, story
from search.report.tables import result_table
from search.study.schema import Study

KEPT = 8  # rows of the front on the screen


@dataclass
class Progress:
    """What changes while a study runs."""

    phase: str = "starting"
    began: float = field(default_factory=time.time)
    done_before: int | None = None  # trials an earlier launch finished
    results: list[Result] = field(default_factory=list)
    front: list[Result] = field(default_factory=list)  # a model once
    running: Mapping[int, dict[str, object]] = field(default_factory=dict)

    @property
    def ended(self) -> int:
        """Trials, the baseline apart."""
        return sum(result.ended and result.number > 0 for result in self.results)


class Screen(Watcher):
    """A live table: progress, rate, time left, the front so far."""

    def __init__(self, study: Study, console: Console) -> None:
        super().__init__(self._phase, self._change)
        self.study, self.console, self.now = study, console, Progress()
        self.live = Live(get_renderable=self.render, console=console, refresh_per_second=4)

    def __enter__(self) -> "Screen":
        self.live.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.live.__exit__(None, None, None)

    def _phase(self, text: str) -> None:
        self.now.phase = text

    def _change(self, journal: Journal, plan: Plan) -> None:
        self.now.phase = "measuring the untouched model" if plan.ask is None else "searching"
        self.take(results_of(self.study, journal.trials()))
        ended = sum(result.ended for result in self.now.results)
        if self.now.done_before is None:
            self.now.done_before, self.now.began = ended, time.time()
        self.now.running = {handout.number: handout.params for handout in plan.live.values()}

    def take(self, results: list[Result]) -> None:
        """Show these from now on."""
        self.now.results, self.now.front = results, distinct(front(results, self.study.objectives))

    def render(self) -> RenderableType:
        """The screen now."""
        parts: list[RenderableType] = [self._head()]
        if shown := self.now.front:
            title = f"front: {sum(r.number > 0 for r in shown)} of {self.now.ended} trials"
            parts.append(result_table(self.study, self.now.results, shown[:KEPT], title))
        for number, params in sorted(self.now.running.items()):
            parts.append(Text(f"  running  trial {number}  {brief(params)}", style="dim"))
        return Group(*parts)

    def _head(self) -> Table:
        grid = Table.grid(padding=(0, 2))
        failed = sum(r.state == "fail" for r in self.now.results)
        planned = self.study.budget.trials
        grid.add_row(
            Text(self.study.name, style="bold"),
            Text(self.now.phase),
            Text(f"{self.now.ended}/{planned or '…'} trials", style="cyan"),
            Text(f"{failed} failed", style="red") if failed else Text(""),
            Text(pace(self.now, planned)),
        )
        return grid


class Lines(Watcher):
    """One line per event, for logs."""

    def __init__(self, study: Study, console: Console) -> None:
        super().__init__(self._phase, self._change)
        self.study, self.console = study, console
        self.told: set[int] | None = None

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def _phase(self, text: str) -> None:
        self.console.print(f"{self.study.name}: {text}", highlight=False)

    def _change(self, journal: Journal, plan: Plan) -> None:
        results = results_of(self.study, journal.trials())
        ended = [result for result in results if result.ended]
        if self.told is None:
            self.told = set() if len(ended) <= 1 else {result.number for result in ended}
        for result in ended:
            if result.number not in self.told:
                self.told.add(result.number)
                self.console.print(event(result, self.study), highlight=False, soft_wrap=True)


def event(result: Result, study: Study) -> str:
    """A finished trial in a line."""
    name = "baseline" if result.number == 0 else f"trial {result.number}"
    if result.state != "complete":
        return f"{name}  {result.state}  {result.reason or ''}"
    metrics = "  ".join(f"{m} {cell(m, result.metrics[m])}" for m in study.objectives)
    marks = "front" if result.on_front else "" if result.feasible else "misses a constraint"
    same = f"same model as {result.same_as}" if result.same_as else ""
    return "  ".join(part for part in (name, metrics, marks, same, story(result)) if part)


def pace(now: Progress, planned: int | None) -> str:
    """Trials per hour of this launch, and the time left at that rate."""
    ended = sum(r.ended for r in now.results) - (now.done_before or 0)
    seconds = time.time() - now.began
    if ended < 1 or seconds <= 0:
        return ""
    text = f"{ended / seconds * 3600:.0f} trials/h"
    left = (planned or 0) - now.ended
    if left > 0:
        text += f"  {clock(left * seconds / ended)} left"
    return text


def clock(seconds: float) -> str:
    """2:05:07, or 5:07."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
