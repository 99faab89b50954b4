"""One row per trial, and what is made of it: tables, lines, Markdown."""

import io
from collections.abc import Iterator
from dataclasses import replace

import pytest
from rich.console import Console

from search.journal.view import View, read
from search.report.best import Best, best
from search.report.rows import Cell, best_rows, cells, row
from search.report.tables import best_table, best_table_markdown, headline
from tests.support.journals import Sample, sample_study


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> Iterator[View]:
    made = Sample(tmp_path_factory.mktemp("runs")).run()
    yield read(made.store)
    made.close()


def test_cells_say_what_changed_and_whether_it_is_better() -> None:
    found = cells(sample_study(), {"parameters": 127e6, "perplexity": 20.0}, {"parameters": 134e6})
    assert found == {"perplexity": Cell("20"), "parameters": Cell("127M", "-5.2 %", "better")}
    assert list(map(str, found.values())) == ["20", "127M (-5.2 %)"]


def test_a_row_per_trial(view: View) -> None:
    untouched, first, _ = best_rows(view, best(view))
    assert (untouched.name, untouched.done, untouched.mark) == ("untouched", *TEXTS)
    assert untouched.cells["perplexity"] == Cell("20")
    assert (first.name, first.done, first.mark) == ("1", "Omission skip=20", "front")
    assert first.cells["perplexity"] == Cell("21", "+5.0 %", "worse")
    failed = row(view, view.trial(4))
    assert (failed.cells, failed.mark) == ({}, "perplexity was nan")


TEXTS = ("untouched model", "front")


def test_a_model_that_was_measured_before_says_where(view: View) -> None:
    again = replace(view.trial(1), record={**view.trial(1).record, "same_as": "wide/3"})
    assert row(view, again).done == "Omission skip=20 (same model as wide/3)"


def test_markdown_keeps_its_cells(view: View) -> None:
    odd = replace(view.trial(4), record={"reason": "a|b\n[c]"})
    lines = best_table_markdown(view, Best((odd,))).splitlines()
    assert len(lines) == 4 and r"a\|b [c]" in lines[-1]


def test_brackets_in_a_reason_are_words(view: View) -> None:
    odd = replace(view.trial(4), record={"reason": "no [/INST] in [cuda]"})
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(best_table(view, Best((odd,))))
    assert "no [/INST] in [cuda]" in console.export_text()


def test_a_headline(view: View) -> None:
    told = headline(view, view.trial(1))
    assert told == "trial 1: perplexity 21 (+5.0 %), parameters 131M (-2.2 %); Omission skip=20"
