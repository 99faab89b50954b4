"""The page of a study, its plots, and the numbers behind them."""

import random
import xml.etree.ElementTree as xml
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from search.journal.results import Result
from search.journal.view import View, read
from search.report.course import best_so_far, growth
from search.report.page import page, write_report
from search.report.pictures import front_svg
from search.report.plots import front_figure, front_html, groups, history_figure, told
from tests.support.journals import TOML, Sample, record, sample_study
from trainables.core.errors import UserError
from trainables.core.pictures import Bars, picture_data


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sample]:
    made = Sample(tmp_path_factory.mktemp("runs")).run()
    yield made
    made.close()


@pytest.fixture
def view(sample: Sample) -> View:
    return read(sample.store)


def with_objectives(sample: Sample, *names: str) -> View:
    """The same trials seen with other objectives."""
    before = read(sample.store)
    metrics = {f"m{index}": float(index) for index in range(3)}
    results = tuple(
        one
        if one.state != "complete"
        else type(one)(**{**one.__dict__, "metrics": {**metrics, **one.metrics}})
        for one in before.results
    )
    study = sample_study().model_copy(update={"objectives": dict.fromkeys(names, "min")})
    return View(study, results, None, before.notes)


class Page(HTMLParser):
    """The page's visible text, and whether its tags match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert dict(attrs).get("src") is None, "the page asks for something else"
        if tag not in ("meta", "link", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.text += f"{data} "


def test_page_holds_everything(view: View) -> None:
    read_page = Page(page(view))
    assert read_page.open == []
    for said in (
        "min perplexity, min parameters, with perplexity <= 130% of baseline (<= 26)",
        "5 of 6",
        "Omission skip=20,21",
        "perplexity was nan",
        "exp of the mean negative log-likelihood",
        "torch 2.13.0",
        "git checkout 0123abc",
        "rayduce export depth --trial 1 --to DIR",
        'dataset = "asset:imdb"',
        "untouched model",
    ):
        assert said in read_page.text, said


def test_machines_with_a_cache_of_their_own_are_named(tmp_path: Path) -> None:
    sample = Sample(tmp_path).run(upto=1)
    number = sample.hand_out()
    metrics = {"perplexity": 22.0, "parameters": 1e6}
    found = record(sample.journal.uid(number), number, metrics)
    sample.journal.settle(number, found | {"unshared": "box7"})
    sample.journal.note("naive", True)
    said = page(read(sample.store))
    assert "box7 do not see the results&#x27; folder" in said
    assert "all off (launch --naive)" in said
    sample.close()


@pytest.mark.parametrize(
    ("passes", "said"),
    [
        ({"done": 30, "whole": 40, "why": ""}, "30 of 40 block-forwards (75%)"),
        ({"done": 0, "whole": 0, "why": "T5 has 2 stacks"}, "whole: T5 has 2 stacks"),
    ],
)
def test_where_passes_began_is_said(passes: dict[str, object], said: str, tmp_path: Path) -> None:
    sample = Sample(tmp_path).run(upto=1)
    assert "block-forwards" not in page(read(sample.store))
    number = sample.hand_out()
    metrics = {"perplexity": 22.0, "parameters": 1e6}
    found = record(sample.journal.uid(number), number, metrics)
    sample.journal.settle(number, found | {"passes": passes})
    assert said in page(read(sample.store))
    sample.close()


def test_the_form_in_which_the_data_was_read_is_said(tmp_path: Path) -> None:
    sample = Sample(tmp_path).run(upto=1)
    number = sample.hand_out()
    found = record(sample.journal.uid(number), number, {"perplexity": 22.0, "parameters": 1e6})
    sample.journal.settle(number, found | {"data_form": {"windows": "as published"}})
    assert "text: as published" in page(read(sample.store))
    sample.close()


def test_what_users_write_is_text(view: View) -> None:
    study = view.study.model_copy(update={"name": "<b>x</b>"})
    assert (
        "<b>x</b>" not in page(View(study, view.results, None, view.notes)).split("</script>")[-1]
    )


def test_written_where_asked(sample: Sample, tmp_path: Path) -> None:
    place = write_report(sample.store, tmp_path / "a" / "b.html")
    assert place == tmp_path / "a" / "b.html"
    assert place.read_text().startswith("<!doctype html>")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        write_report(sample.store, tmp_path / "file" / "b.html")


def test_no_results_no_page(tmp_path: Path) -> None:
    made = Sample(tmp_path)
    with pytest.raises(UserError, match="has no results yet"):
        write_report(made.store, tmp_path / "x.html")
    made.close()


def test_groups(view: View) -> None:
    found = {group.name: [one.number for one in group.results] for group in groups(view)}
    assert found == {
        "misses a constraint": [5],
        "dominated": [3, 6],
        "front": [1, 2],
        "untouched model": [0],
    }


def test_front_line_goes_through_the_front(view: View) -> None:
    line = front_figure(view).data[0]
    assert list(line.y) == [20.0, 21.0, 25.0]
    assert list(line.x) == [134e6, 131e6, 127e6]
    low, high = front_figure(view).layout.yaxis.range
    assert low < 20.0 and 25.0 < high < 90.0  # the trial far off does not press the rest together


def test_hovering_tells(view: View) -> None:
    said = told(view, view.trial(2))
    assert "<b>trial 2</b>" in said and "Omission skip=20,21" in said
    assert "perplexity 25  +25 %" in said


def test_three_objectives_as_pairs(sample: Sample) -> None:
    figure = front_figure(with_objectives(sample, "perplexity", "parameters", "m1"))
    assert {trace.type for trace in figure.data} == {"splom"}
    assert [one.label for one in figure.data[0].dimensions] == ["perplexity", "parameters", "m1"]


def test_one_objective_as_a_course(sample: Sample) -> None:
    one = with_objectives(sample, "parameters")
    assert best_so_far(one, "parameters") == (
        [0, 1, 2, 3, 6, 6],
        [134e6, 131e6, 127e6, 127e6, 127e6, 127e6],
    )
    assert front_figure(one).layout.xaxis.title.text == "trial"
    assert history_figure(one, "parameters").data[0].name == "best so far"
    assert "The course of the search" in page(one)


def test_pages_and_pictures_stand_alone(view: View, sample: Sample) -> None:
    assert len(front_html(view)) > 1_000_000  # plotly itself is in it
    for shown in (view, with_objectives(sample, "parameters")):
        assert xml.fromstring(front_svg(shown).encode()).tag.endswith("svg")


def test_growth_ends_at_one(view: View) -> None:
    numbers, areas = growth(view)
    assert numbers == [0, 1, 2, 3, 6]
    assert areas == sorted(areas) and areas[-1] == 1.0


def test_a_study_where_nothing_is_feasible(tmp_path: Path) -> None:
    made = Sample(tmp_path, sample_study(TOML.replace("<= 130% of baseline", "<= 1")))
    made.run(upto=2)
    found = read(made.store)
    made.close()
    assert "these come closest" in page(found)
    assert "<svg" in front_svg(found)


def test_growth_is_the_dominated_area(sample: Sample) -> None:
    chance = random.Random(5)
    study = sample_study().model_copy(update={"objectives": {"a": "min", "b": "max"}})
    for _ in range(20):
        points = [(chance.randint(0, 8), chance.randint(0, 8)) for _ in range(25)]
        results = tuple(
            Result(number, "complete", {}, {"a": float(a), "b": float(b)}, {}, {})
            for number, (a, b) in enumerate(points)
        )
        numbers, areas = growth(View(study, results))
        width, low = max(a for a, _ in points), min(b for _, b in points)
        counted = [_area(points[: count + 1], width, low) for count in range(len(points))]
        assert numbers == list(range(len(points)))
        assert areas == pytest.approx([one / counted[-1] for one in counted])


def _area(points: list[tuple[int, int]], width: int, low: int) -> int:
    """Unit squares with a point at least as good in both: less in a, more in b."""
    return sum(
        any(a <= x and b >= y + 1 for a, b in points)
        for x in range(width)
        for y in range(low, max(b for _, b in points))
    )


def test_the_best_trials_pictures_are_on_the_page(sample: Sample) -> None:
    before = read(sample.store)
    shown = [picture_data(Bars("influence <b> of $20 blocks", [0.5, None, -0.25], [2], "share"))]
    trial = before.trial(2)
    stages = [trial.record["stages"][0] | {"pictures": shown}, *trial.record["stages"][1:]]
    drawn = replace(trial, record={**trial.record, "stages": stages})
    results = tuple(drawn if one.number == 2 else one for one in before.results)
    text = page(replace(before, results=results))
    assert "trial 2: Omission skip=20,21" in Page(text).text
    assert text.count("<figure><svg") == 1 and "What the best trials show" in text
    assert "What the best trials show" not in page(before)
