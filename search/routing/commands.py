"""`rayduce route …`: the four stages of prompt-routed depth pruning (PuDDing).

Every command runs what it needs of the stages before, and goes on where it was interrupted.
`launch` and `resume` do what `route eval` does.
"""

import json
from collections.abc import Generator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from search.terminal import note, quiet_libraries, say

if TYPE_CHECKING:
    from search.routing.stages import Route
    from trainables.routing.routed_model import Reply

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


@app.command()
def sets(study: File, workers: Workers = None, storage: Storage = None) -> None:
    """Stage 1: find omission sets by greedy searches over tasks and losses."""
    route = _run(study, workers, storage, stages=1)
    for name, omit in route.sets.items():
        say(f"{name}: {' '.join(map(str, omit))}")
    say(str(route.root / "sets.csv"))


@app.command()
def dataset(study: File, workers: Workers = None, storage: Storage = None) -> None:
    """Stage 2: what every choice of the training items scores under every set."""
    route = _run(study, workers, storage, stages=2)
    say(f"{route.dataset}\n{route.root / 'all_log.csv'}")


@app.command()
def train(study: File, workers: Workers = None, storage: Storage = None) -> None:
    """Stage 3: train a router for every budget."""
    for budget, found in _run(study, workers, storage, stages=3).routers.items():
        say(f"{budget} blocks omitted: {json.dumps(asdict(found), indent=2)}")


@app.command("eval")
def evaluate(study: File, workers: Workers = None, storage: Storage = None) -> None:
    """Stage 4: judge routers against the dense model, static sets, chance and the oracle."""
    from search.routing.stages import run_stages
    from search.run import run
    from search.study.routing import as_study, load_route

    found = as_study(load_route(study, {"resources.workers": workers, "folder": storage}))
    run(found, stages=run_stages)


@app.command()
def export(
    study: File,
    to: Annotated[Path, typer.Option(help="The folder to make.")],
    budget: Annotated[
        int | None, typer.Option(help="Whose router, of several numbers of blocks.")
    ] = None,
    workers: Workers = None,
    storage: Storage = None,
) -> None:
    """Save a routed model, load it again and let it write."""
    from search.rebuild import free
    from search.routing.export import export_route

    free(to)  # before there is any work to lose
    for line in export_route(_run(study, workers, storage, stages=3), to, budget):
        say(repr(line))
    say(f'from trainables.load import load; model = load("{to}")')


@app.command()
def chat(
    folder: Annotated[Path, typer.Argument(help="What `route export` made.")],
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto: all GPUs there are.")] = "cpu",
    tokens: Annotated[int, typer.Option(min=1, help="Written at most, for every line.")] = 128,
) -> None:
    """Try a routed model by hand: line by line, with the set that was taken and the speed."""
    from trainables.routing.routed_model import RoutedModel

    quiet_libraries()
    model = RoutedModel.from_pretrained(folder, device_map=device)
    turns: list[dict[str, str]] = []
    for line in typer.get_text_stream("stdin"):
        if not (asked := line.strip()):
            continue
        turns.append({"role": "user", "content": asked})
        reply = _shown(model.stream(turns if model.chats else asked, max_new_tokens=tokens))
        turns.append({"role": "assistant", "content": reply.text})
        omitted = " ".join(map(str, model.sets[reply.set]))
        note(f"set {reply.set}, without blocks {omitted}: {reply.speed:.1f} tokens per second")


def _shown(pieces: Generator[str, None, "Reply"]) -> "Reply":
    """Print what is written as it comes; the whole of it."""
    begun = False
    while True:
        try:
            piece = next(pieces)
        except StopIteration as end:
            say("")
            return end.value  # type: ignore[no-any-return]
        piece = piece if begun else piece.lstrip()
        begun = begun or bool(piece)
        typer.echo(piece, nl=False)


def _run(study: Path, workers: int | None, storage: str | None, stages: int) -> "Route":
    """The study after its first stages."""
    from search.routing.stages import run_route
    from search.study.routing import load_route

    quiet_libraries()
    found = load_route(study, {"resources.workers": workers, "folder": storage})
    return run_route(found, note, stages)
