"""What a ledger holds, for comparison; and an empty one, made once."""

import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from search.ledger.mirror import embedded, open_client
from tests.support.journals import Sample


@functools.cache
def _migrated() -> Path:
    path = Path(tempfile.mkdtemp(prefix="rayduce-test-")) / "mlflow.db"
    open_client(f"sqlite:///{path}").search_experiments(max_results=1)
    return path


def migrated_ledger(path: Path) -> None:
    """A database of MLflow's, copied: making one takes seconds."""
    shutil.copy(_migrated(), path)


class Runs:
    """What the ledger holds of a study."""

    def __init__(self, sample: Sample) -> None:
        self.client = open_client(embedded(sample.store))
        experiment = self.client.get_experiment_by_name("rayduce")
        assert experiment is not None
        found = self.client.search_runs([experiment.experiment_id], max_results=1000)
        self.parents = [run for run in found if "rayduce.uid" not in run.data.tags]
        self.trials = {
            int(run.data.tags["rayduce.uid"][-5:]): run
            for run in found
            if "rayduce.uid" in run.data.tags
        }
        self.count = len(found)

    @property
    def parent(self) -> Any:
        (only,) = self.parents
        return only

    def artifact(self, run: Any, name: str) -> str:
        return (Path(unquote(urlsplit(run.info.artifact_uri).path)) / name).read_text()

    def state(self) -> Any:
        """All there is, for comparison."""
        return {
            run.info.run_id: (run.data.to_dictionary(), run.info.status, run.info.end_time)
            for run in [*self.trials.values(), self.parent]
        }
