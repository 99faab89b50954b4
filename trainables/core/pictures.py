"""Pictures as plain data: a stage says what there is to see, reports and the ledger draw it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias


@dataclass(frozen=True)
class Heatmap:
    """A matrix, with runs of its rows framed."""

    title: str
    values: Sequence[Sequence[float | None]]  # None where there is no value
    boxes: Sequence[Sequence[int]] = ()  # neighbouring rows (and columns), each run a frame
    label: str = ""  # what the values are, with their unit
    axis: str = ""  # what rows and columns are
    high: float | None = None  # the top of the scale

    kind = "heatmap"


@dataclass(frozen=True)
class Bars:
    """One value each for a row of things, some of them marked."""

    title: str
    values: Sequence[float | None]
    marked: Sequence[int] = ()
    label: str = ""
    axis: str = ""
    band: Sequence[Sequence[float]] = ()  # (low, high) around each value

    kind = "bars"


Picture: TypeAlias = Heatmap | Bars
_KINDS: dict[str, type[Heatmap] | type[Bars]] = {one.kind: one for one in (Heatmap, Bars)}


def picture_data(picture: Picture) -> dict[str, Any]:
    """For records."""
    return {"kind": picture.kind, **asdict(picture)}


def read_picture(data: Mapping[str, Any]) -> Picture:
    """The inverse of `picture_data`."""
    fields = {name: value for name, value in data.items() if name != "kind"}
    return _KINDS[data["kind"]](**fields)
