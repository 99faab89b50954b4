"""Pictures of trials as SVG: whatever a stage gives to draw, the page and the ledger go on."""

import math
import xml.etree.ElementTree as xml

import pytest

from search.report.pictures import picture_svg, pictures, pictures_svg
from trainables.core.pictures import Bars, Heatmap, Picture, picture_data

ODD: dict[str, Picture] = {
    "no rows": Heatmap("no rows", []),
    "ragged": Heatmap("ragged", [[1.0], [1.0, 2.0]]),
    "nothing known": Heatmap("nothing known", [[None, None], [None, None]], [[0], []]),
    "not finite": Heatmap("not finite", [[math.inf, 1.0], [1.0, -math.inf]], high=2.0),
    "no bars": Bars("no bars", []),
    "bars not finite": Bars("bars not finite", [math.inf, math.nan, None, -1.0], [7]),
    "words": Bars("words", ["many"]),  # type: ignore[list-item]
    "signs": Bars("a $x^ <b> & [c]", [0.5], label="$", axis="%"),
}


@pytest.mark.parametrize("picture", ODD.values(), ids=ODD)
def test_an_odd_picture_ends_nothing(picture: Picture) -> None:
    assert xml.fromstring(picture_svg(picture)).tag.endswith("svg")


def test_pictures_stand_three_to_a_row() -> None:
    one = picture_data(Bars("bars", [1.0, 2.0]))
    stage = {"stage": "Any", "settings": {}, "effects": [], "counts": {}}
    widths = []
    for count in (1, 3, 4):
        text = pictures_svg({"stages": [stage | {"pictures": [one] * count}]})
        assert text is not None
        sizes = xml.fromstring(text.encode()).attrib
        widths.append((sizes["width"], sizes["height"]))
    (single, _), (three, low), (four, high) = widths
    assert float(three[:-2]) == float(four[:-2]) == pytest.approx(3 * float(single[:-2]))
    assert float(high[:-2]) == pytest.approx(2 * float(low[:-2]))


def test_a_newer_versions_pictures_are_passed_over() -> None:
    known = Bars("bars", (1.0,))
    shown = [{"kind": "film"}, picture_data(known), {"kind": "bars", "sound": 1}]
    stage = {"stage": "Any", "settings": {}, "effects": [], "counts": {}, "pictures": shown}
    assert pictures({"stages": [stage]}) == [known]
