"""What MLflow's pages tell people to type: from a run to its model, on any machine."""

import shlex

from search.journal.results import Result
from search.journal.store import Store
from search.study.database import redacted

FENCE = "\n\n{said}\n\n```\n{line}\n```"


def reaching(store: Store, server: str | None) -> str:
    """The flag by which a command finds a ledger; the folder's own where there is no server."""
    if server is None:
        return f" --storage {shlex.quote(str(store.folder))}"
    return f" --mlflow {shlex.quote(redacted(server))}"


def export_line(run_id: str, place: str) -> str:
    """What makes the model of a run."""
    return f"rayduce export {run_id} --to DIR{place}"


def trial_steps(result: Result, run_id: str, place: str) -> str:
    """The end of a trial's description: what a reader can do with it."""
    like = FENCE.format(
        said="A search of its own that begins here:",
        line=f"rayduce launch --like {run_id}{place}",
    )
    if result.state != "complete":
        return like
    return FENCE.format(said="To make this model:", line=export_line(run_id, place)) + like


def study_steps(name: str, chosen: str | None, place: str) -> str:
    """The end of a study's description.

    Args:
        chosen: the run of its best trial.
    """
    best = FENCE.format(said="Its best trials:", line=f"rayduce best {shlex.quote(name)}{place}")
    if chosen is None:
        return best
    return best + FENCE.format(
        said="To make the first one's model:", line=export_line(chosen, place)
    )
