"""When a study is done, and what is said where nothing came of it."""

from pathlib import Path

import pytest

from search.journal.view import read
from search.study.schema import Budget
from tests.support.journals import Sample, sample_study


@pytest.mark.parametrize(
    ("budget", "notes", "state"),
    [
        (Budget(trials=6), {}, "finished"),
        (Budget(trials=7), {}, "interrupted"),
        (Budget(trials=7), {"exhausted": True}, "finished"),
        (Budget(hours=1), {"seconds": 3599.0}, "interrupted"),
        (Budget(hours=1), {"seconds": 3600.0}, "finished"),
    ],
)
def test_a_study_is_done_when_its_budget_is_spent_or_its_grid_is_through(
    budget: Budget, notes: dict[str, object], state: str, tmp_path: Path
) -> None:
    sample = Sample(tmp_path, sample_study(budget=budget)).run()
    for key, value in notes.items():
        sample.journal.note(key, value)
    assert read(sample.store).state == state


def test_a_study_whose_trials_all_failed_says_so(tmp_path: Path) -> None:
    sample = Sample(tmp_path)
    sample.baseline()
    assert read(sample.store).failed == ""
    for reason in ("too big", "perplexity was nan"):
        sample.journal.fail(sample.hand_out(), reason)
    failed = read(sample.store).failed
    assert failed == "no trial came to a result; the last one: perplexity was nan"
    assert read(Sample(tmp_path / "other").run().store).failed == ""
