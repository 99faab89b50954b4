"""Searches at equal work: what the table, the summary and the plot say."""

from pathlib import Path

import pytest

from benchmarks.curves import Curve, read_curves, summary, table, work, write_curves, write_page

CURVES = [
    Curve("greedy", 0, [(100, 4.0)], 4.0, 4.4, [1, 2], 10),
    Curve("switch", 0, [(20, 6.0), (60, 5.0), (110, 3.0)], 3.0, 4.2, [2, 3], 20),
    Curve("greedy", 1, [(100, 4.2)], 4.2, 4.6, [1, 2], 10),
    Curve("switch", 1, [(30, 7.0), (90, 4.1)], 4.1, 4.8, [2, 3], 20),
]


def test_they_are_compared_at_the_work_of_the_shortest() -> None:
    assert work(CURVES) == 90
    assert CURVES[1].at(90) == 5
    assert CURVES[1].at(10) is None
    shorter = [c for c in CURVES if (c.method, c.seed) != ("switch", 1)]
    assert summary(shorter[:2])["switch against greedy"]["ours"] == 5


def test_the_summary_counts_wins_over_the_seeds() -> None:
    even = [*CURVES[:3], Curve("switch", 1, [(30, 7.0), (100, 4.1)], 4.1, 4.8, [2, 3], 20)]
    found = summary(even)["switch against greedy"]
    assert found["baseline"] == pytest.approx(4.1)
    assert found["ours"] == pytest.approx(4.55)
    assert (found["wins"], found["seeds"]) == (1, 2)
    assert found["other_text"] == [pytest.approx(4.5), pytest.approx(4.5)]


def test_the_page_can_be_made_again(tmp_path: Path) -> None:
    write_curves(CURVES, tmp_path)
    again = read_curves(tmp_path)
    assert [curve.at(90) for curve in again] == [curve.at(90) for curve in CURVES]
    assert (tmp_path / "curves.png").stat().st_size > 1000
    shown = table(again)
    assert shown.row_count == 2
    assert list(shown.columns[1].cells) == ["none yet", "none yet"]
    assert list(shown.columns[3].cells)[1] == "4.550 ± 0.450"


def test_the_page_has_the_table_and_the_plot(tmp_path: Path) -> None:
    write_curves(CURVES, tmp_path)
    page = write_page(tmp_path, tmp_path / "report.html")
    assert "4.550 ± 0.450" in page.read_text()
    assert "data:image/png" in page.read_text()
