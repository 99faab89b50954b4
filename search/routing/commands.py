"""`rayduce route …`: the four stages of prompt-routed depth pruning (PuDDing).

Every command runs what it needs of the stages before, and goes on where it was interrupted.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from search.terminal import console, note, quiet_libraries, say

if TYPE_CHECKING:
    from rich.table import Table

    from search.engine.pool import Pool
    from search.routing.evaluation import Evaluation
    from search.routing.stages import Route

app = typer.Typer(
    name="route",
    help="Route every prompt to the omission set that suits it (PuDDing).",
    no_args_is_help=True,
)

File = Annotated[Path, typer.Argument(help="The routing study's file (TOML).")]
Storage = Annotated[
    str | None, typer.Option(envvar="RAYDUCE_STORAGE", help="Folder of the results. Default: runs.")
]
Workers = Annotated[
    int | None, typer.Option(min=0, help="Ray workers; 0: all in this process, without Ray.")
]

Budget = Annotated[
    int | None, typer.Option(min=1, help="Blocks to omit; another budget is another study.")
]


@app.command()
def sets(
    study: File, workers: Workers = None, budget: Budget = None, storage: Storage = None
) -> None:
    """Stage 1: find diverse omission sets by greedy searches over tasks and losses."""
    with _opened(study, workers, budget, storage) as (route, pool):
        for name, omit in route.sets(pool).items():
            say(f"{name}: {' '.join(map(str, omit))}")
    say(str(route.root / "sets.csv"))


@app.command()
def dataset(
    study: File, workers: Workers = None, budget: Budget = None, storage: Storage = None
) -> None:
    """Stage 2: how likely each training item's right answer is under every set."""
    with _opened(study, workers, budget, storage) as (route, pool):
        say(str(route.dataset(pool)))
    say(str(route.root / "all_log.csv"))


@app.command()
def train(
    study: File, workers: Workers = None, budget: Budget = None, storage: Storage = None
) -> None:
    """Stage 3: train the router."""
    with _opened(study, workers, budget, storage) as (route, pool):
        folder = route.train(pool)
    say(f"{folder}\n{folder.with_suffix('.json').read_text()}")


@app.command("eval")
def evaluate(
    study: File, workers: Workers = None, budget: Budget = None, storage: Storage = None
) -> None:
    """Stage 4: judge the router against the dense model, static sets, chance and the oracle."""
    from search.routing.evaluation import speed
    from search.routing.record import keep

    with _opened(study, workers, budget, storage) as (route, pool):
        found, timing = route.evaluation(pool), speed(route.timing(pool))
        console().print(table(found))
        if found.harness:
            console().print(harness_table(found))
        note(keep(route, found, timing))
    say(
        f"speed-up with the router's time: prefill {timing['prefill_speedup']:.2f}, generation "
        f"{timing['generation_speedup']:.2f}; weights resident {timing['resident_bytes']:.3g} "
        f"bytes, used per prompt {timing['active_bytes']:.3g}, dense {timing['dense_bytes']:.3g}"
    )
    say(found.verdict())


@app.command()
def export(
    study: File,
    to: Annotated[Path, typer.Option(help="The folder to make.")],
    workers: Workers = None,
    budget: Budget = None,
    storage: Storage = None,
) -> None:
    """Save the routed model, load it again and let it write."""
    from search.routing.export import export_route

    with _opened(study, workers, budget, storage) as (route, pool):
        for line in export_route(route, pool, to):
            say(repr(line))
    say(f'from trainables.load import load; model = load("{to}")')


def table(found: "Evaluation") -> "Table":
    """The evaluation for people."""
    from rich.table import Table

    shown = Table("choice of the set", *found.tasks, "mean", "likelihood", "regret")
    for name, row in found.rows.items():
        rates = [f"{row[task]:.1%}" for task in [*found.tasks, "mean"]]
        rest = [f"{row[key]:.3f}" if key in row else "" for key in ("likelihood", "regret")]
        shown.add_row(name, *rates, *rest)
    return shown


def harness_table(found: "Evaluation") -> "Table":
    """The harness's scores with their standard errors, for people."""
    from rich.table import Table

    first = next(iter(found.harness.values()))
    names = [name for name in first if not name.endswith("_stderr")]
    shown = Table("lm-evaluation-harness", *names)
    for way, row in found.harness.items():
        errors = [row.get(f"{name}_stderr") for name in names]
        told = [f" ± {error:.1%}" if error is not None else "" for error in errors]
        shown.add_row(way, *(f"{row[n]:.1%}{e}" for n, e in zip(names, told, strict=True)))
    return shown


@contextmanager
def _opened(
    study: Path, workers: int | None, budget: int | None, storage: str | None
) -> "Iterator[tuple[Route, Pool]]":
    """The study, locked, and its workers."""
    from search.routing.load import load_route
    from search.routing.stages import opened

    quiet_libraries()
    given = {"resources.workers": workers, "sets.budget": budget, "folder": storage}
    with opened(load_route(study, given), note) as found:
        yield found
