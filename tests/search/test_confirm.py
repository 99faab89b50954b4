"""`rayduce confirm`: measured once, kept in the journal, shown wherever results are."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.samplers import RandomSampler
from rich.console import Console

from search.cli import main
from search.confirm import confirm
from search.journal.confirmed import NOTE
from search.journal.journal import Journal
from search.journal.lock import study_lock
from search.journal.store import Store
from search.journal.view import View, read
from search.ledger.mirror import sync
from search.report.best import best, best_json, of_confirmed
from search.report.page import page
from search.report.tables import best_table, best_table_markdown
from search.study.space import load_space
from search.study.starting_points import read_point
from tests.support.journals import Sample
from tests.support.ledgers import Runs, migrated_ledger
from trainables.bench import bench as bench_module
from trainables.core.errors import UserError
from trainables.core.places import CHECKOUT
from trainables.stage import Facts


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The roles that anything is measured on."""
    roles: list[str] = []
    measure: Callable[..., Any] = bench_module.measure_items

    def noted(bench: Any, names: Any, role: str, *how: Any) -> Any:
        roles.append(role)
        return measure(bench, names, role, *how)

    monkeypatch.setattr(bench_module, "measure_items", noted)
    return roles


def kept(view: View) -> dict[str, Any]:
    """What held-out data said, without the hour."""
    notes = {key: dict(note) for key, note in view.notes.items() if key.startswith(NOTE)}
    for note in notes.values():
        note.pop("when")
    return notes


def test_the_front_is_measured_once_on_held_out_data(tiny: Sample, measured: list[str]) -> None:
    said: list[str] = []
    view = confirm(tiny.store, said.append)
    assert list(view.confirmed) == [0, 1, 2] and measured == ["held_out"] * 3
    before = kept(view)
    again = confirm(tiny.store, said.append)
    assert kept(again) == before and measured == ["held_out"] * 3
    assert "nothing is measured again" in said[-1]
    metrics = view.confirmed[1].metrics
    assert metrics["perplexity"] != view.trial(1).metrics["perplexity"]
    assert metrics["nonzero_parameters"] == view.trial(1).metrics["nonzero_parameters"]


def test_a_run_that_was_killed_goes_on_to_the_same_end(
    tiny: Sample, measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    note: Callable[..., None] = Journal.note

    def killed(journal: Journal, key: str, value: Any) -> None:
        if key == f"{NOTE}1":
            raise KeyboardInterrupt
        note(journal, key, value)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Journal, "note", killed)
        confirm(tiny.store)
    assert list(read(tiny.store).confirmed) == [0]
    found = kept(confirm(tiny.store))
    assert list(found) == [f"{NOTE}{number}" for number in (0, 1, 2)]
    assert measured == ["held_out"] * 3, "what was measured before the end lies in the cache"


PROGRAM = """
import os, pathlib, signal, sys
from search.confirm import NOTE, confirm
from search.journal.journal import Journal
from search.journal.store import Store

note = Journal.note

def killed(journal, key, value):
    if key == NOTE + "1":
        os.kill(os.getpid(), signal.SIGKILL)
    note(journal, key, value)

Journal.note = killed
confirm(Store(pathlib.Path(sys.argv[1]), "tiny"))
"""


@pytest.mark.slow
def test_killed_outright_it_ends_as_if_it_had_not_been(tiny: Sample, tmp_path: Path) -> None:
    shutil.copytree(tiny.store.folder, tmp_path / "unharmed")
    told = [sys.executable, "-c", PROGRAM, str(tiny.store.folder)]
    assert subprocess.run(told, cwd=CHECKOUT, check=False).returncode == -signal.SIGKILL
    assert list(read(tiny.store).confirmed) == [0]
    whole = kept(confirm(Store(tmp_path / "unharmed", tiny.store.study)))
    assert kept(confirm(tiny.store)) == whole and len(whole) == 3


def test_everything_shows_it(tiny: Sample) -> None:
    view = confirm(tiny.store)
    screen = Console(width=80)
    with screen.capture() as printed:
        screen.print(best_table(view, best(view)))
    for text in (printed.get(), best_table_markdown(view, best(view)), page(view)):
        assert "n held-out data" in text and "holds" in text and "certain" in text
        assert "points" in text and "not confirmed" not in text
    told = best_json(view, of_confirmed(view))["trials"][0]["held_out"]
    assert set(told) == {"metrics", "changes", "flattered", "constraints", "holds"}
    assert told["constraints"] == {"perplexity <= 150% of baseline": "certain"}
    assert list(told["flattered"]) == ["perplexity"]


def test_the_ledger_is_told_once_and_again(tiny: Sample) -> None:
    migrated_ledger(tiny.store.ledger)
    sync(tiny.store)
    assert "holds" not in Runs(tiny).trials[1].data.tags
    view = confirm(tiny.store)
    for _ in range(2):
        sync(tiny.store)
        run = Runs(tiny).trials[1].data
        assert run.tags["holds"] == "yes"
        assert run.tags["constraints"] == "perplexity <= 150% of baseline: certain"
        assert run.metrics["held_out/perplexity"] == view.confirmed[1].metrics["perplexity"]
        low, high = (run.metrics[f"held_out/perplexity/{end}"] for end in ("low", "high"))
        assert low <= run.metrics["held_out/perplexity/change"] <= high
    assert "On held-out data" in Runs(tiny).parent.data.tags["mlflow.note.content"]


def found_later(tiny: Sample) -> int:
    """A trial that the search takes for the best by far; its number."""
    record, facts = tiny.journal.trials()[2].user_attrs["record"], tiny.journal.noted("facts")
    space, resumed = load_space(tiny.study.space), Sample(tiny.store.folder, tiny.study)

    def ask(trial: Any) -> object:
        return space.stages(trial, Facts.read(facts))

    point = read_point({"omission.skip": [1], "wanda.percent": 0}, ask, "first")
    resumed.journal.begin(RandomSampler(seed=1), [point])
    given = resumed.journal.hand_out(ask)
    assert given is not None
    metrics = {"perplexity": 1.0, "nonzero_parameters": 5e4}
    changed = {"metrics": metrics, "lineage": "f" * 16, "number": given.number}
    resumed.journal.settle(given.number, record | changed)
    resumed.close()
    return given.number


def test_new_members_of_the_front_are_confirmed_later(tiny: Sample, measured: list[str]) -> None:
    first = kept(confirm(tiny.store))
    number = found_later(tiny)
    view = read(tiny.store)
    assert f"not confirmed yet: {number}" in best_table_markdown(view, best(view))
    measured.clear()
    said: list[str] = []
    found = kept(confirm(tiny.store, said.append))
    assert measured == ["held_out"] and found.items() >= first.items()
    assert any("not bit for bit the model" in line for line in said)
    one = read(tiny.store).confirmed[number]
    assert one.metrics["perplexity"] > 200, "what it really is, not what the search said"


def test_a_study_that_runs_or_has_no_baseline_is_refused(tiny: Sample, tmp_path: Path) -> None:
    with study_lock(tiny.store), pytest.raises(UserError, match="is running already"):
        confirm(tiny.store)
    empty = Sample(tmp_path / "empty")
    with pytest.raises(UserError, match="no baseline yet"):
        confirm(empty.store)
    empty.close()


def test_other_data_is_refused(tiny: Sample, tmp_path: Path, tiny_searched: Path) -> None:
    text = tiny.store.toml.read_text()
    other = tmp_path / "other.jsonl"
    rows = Path(tiny_searched / "rows.jsonl").read_text().replace("was", "is")
    other.write_text(rows)
    tiny.journal.note("toml", text.replace(str(tiny_searched / "rows.jsonl"), str(other)))
    with pytest.raises(UserError, match="data changed since its search"):
        confirm(tiny.store)


def test_the_command_prints_json(tiny: Sample, capsys: pytest.CaptureFixture[str]) -> None:
    migrated_ledger(tiny.store.ledger)
    with pytest.raises(SystemExit):
        main(["confirm", "tiny", "--storage", str(tiny.store.folder), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert [one["number"] for one in told["trials"]] == [1, 2]
    assert all(one["held_out"]["holds"] for one in told["trials"])
