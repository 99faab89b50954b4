"""A study as a table for notebooks and spreadsheets."""

from pathlib import Path

import pandas as pd
import pytest

from search.cli import main
from search.journal.view import read
from search.report.frame import frame
from tests.support.journals import Sample


def test_every_trial_is_a_row(tmp_path: Path) -> None:
    sample = Sample(tmp_path)
    sample.run()
    view = read(sample.store)
    table = frame(view)
    assert list(table["trial"]) == [one.number for one in view.results]
    assert list(table["state"]) == [one.state for one in view.results]
    done = table[table["state"] == "complete"]
    wanted = [one.metrics["perplexity"] for one in view.results if one.state == "complete"]
    assert list(done["perplexity"]) == wanted


def test_the_command_writes_it(tmp_path: Path) -> None:
    sample = Sample(tmp_path)
    sample.run()
    to = tmp_path / "out" / "trials.csv"
    with pytest.raises(SystemExit) as end:
        main(["table", "depth", "--csv", str(to), "--storage", str(tmp_path)])
    assert end.value.code == 0
    assert len(pd.read_csv(to)) == len(read(sample.store).results)
