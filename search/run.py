"""A study run by a command: searched before somebody's eyes, then what to do next."""

from collections.abc import Callable

from rich.console import Console

from search.journal.store import Store
from search.journal.view import read
from search.report.best import best
from search.report.format import storage_flag
from search.report.tables import best_table
from search.study.schema import Study
from search.terminal import console, note, quiet_libraries, say

Stages = Callable[[Study, Callable[[str], None]], list[str]]


def run(
    study: Study, *, naive: bool = False, retry: bool = False, stages: Stages | None = None
) -> None:
    """Search, then say what was found and what to do next.

    Args:
        naive: every shortcut off.
        retry: what failed for reasons outside the candidates runs again.
        stages: runs a study that says itself how, and returns what it came to, in words.

    Raises:
        SystemExit: with 130 where it was interrupted, with 1 where every trial failed.
    """
    screen, store = console(), Store.of(study)
    quiet_libraries()
    said: list[str] = []
    if stages is None:
        stopped = search(study, store, screen, naive=naive, retry=retry)
    else:
        try:
            said, stopped = stages(study, note), False
        except KeyboardInterrupt:
            stopped = True
    view = read(store)
    found = best(view)
    screen.print(best_table(view, found))
    for line in [*(f"warning: {doubt}" for doubt in view.doubts), *said]:
        say(line)
    where = storage_flag(store.folder, study.storage.database)
    if stopped:
        say(f"interrupted; go on with: rayduce resume {study.name}{where}")
        raise SystemExit(130)
    if view.failed:
        say(view.failed)
        raise SystemExit(1)
    say(f"pages:   rayduce ui{where}\nreport:  rayduce report {study.name}{where}")
    if stages is not None:
        say("export:  rayduce route export STUDY.toml --to DIR")
    elif found.trials:
        first = next(iter(study.objectives))
        say(f"export:  rayduce export {study.name} --best {first} --to DIR{where}")


def search(study: Study, store: Store, screen: Console, *, naive: bool, retry: bool) -> bool:
    """Whether someone stopped it."""
    from search.launch import Launch, fetch_assets
    from search.progress import Lines, Screen

    fetch_assets(study)
    shown = Screen(study, screen) if screen.is_terminal else Lines(study, screen)
    try:
        with shown:
            return Launch(study, store, shown, naive=naive, retry=retry).run()
    except KeyboardInterrupt:
        return True
