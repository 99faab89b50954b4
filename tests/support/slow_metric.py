"""A user's own metric for tests: takes a while, and notes each time it is measured."""

import os
import time
from pathlib import Path


def pause(made: object) -> float:
    """Half a second; a line (lineage, process) in the file that RAYDUCE_TEST_LOG names."""
    time.sleep(0.5)
    with Path(os.environ["RAYDUCE_TEST_LOG"]).open("a") as file:
        file.write(f"{made.bench.subject.lineage.key} {os.getpid()}\n")  # type: ignore[attr-defined]
    return 0.5


def hang(made: object) -> float:
    """Never ends for a model of fewer blocks than the first one."""
    if made.model.config.num_hidden_layers < 4:  # type: ignore[attr-defined]
        time.sleep(3600)
    return 0.0
