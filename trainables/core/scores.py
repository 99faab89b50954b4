"""What a metric gave for each item of a role, and how the metric's number is made of it.

A number is a function of sums over items, so that any choice of items, as a bootstrap draws them,
has its number too. Knows no model, and needs no torch: reports read it.
"""

import base64
import io
import math
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from trainables.core.errors import MetricError

Floats: TypeAlias = NDArray[np.float64]
Rule = Literal["mean", "ratio", "exp-ratio", "bleu", "macro-f1"]
ORDERS = 4  # BLEU counts runs of up to four words
BLEU_COLUMNS = (
    "length",
    "wanted_length",
    *(f"right{n}" for n in range(1, ORDERS + 1)),
    *(f"written{n}" for n in range(1, ORDERS + 1)),
)
_COLUMNS: dict[Rule, tuple[str, ...]] = {
    "mean": ("value",),
    "ratio": ("value", "weight"),
    "exp-ratio": ("value", "weight"),
    "bleu": BLEU_COLUMNS,
    "macro-f1": ("predicted", "wanted"),
}


@dataclass(frozen=True, eq=False)
class ItemScores:
    """One metric of one model, item by item.

    Attributes:
        rule: how the number is made. `mean`: of `value`. `ratio`: summed `value` by summed
            `weight`, and `exp-ratio` e to the power of it, as a perplexity. `bleu`: corpus BLEU
            of summed counts (Papineni et al. 2002). `macro-f1`: of classes `predicted` and
            `wanted`.
        columns: [items] each.
    """

    rule: Rule
    columns: Mapping[str, NDArray[Any]]

    def __post_init__(self) -> None:
        if self.rule not in get_args(Rule) or set(self.columns) != set(_COLUMNS[self.rule]):
            got = [self.rule, *self.columns]
            raise MetricError("scores of items", got=got, allowed=f"the columns of {_COLUMNS}")

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def take(self, items: Sequence[int] | NDArray[np.int64]) -> "ItemScores":
        """Those of some items, by their places."""
        at = np.asarray(items, dtype=np.int64)
        return ItemScores(self.rule, {name: values[at] for name, values in self.columns.items()})

    def total(self) -> float:
        """The metric's number: the same whatever the order of the items, to the last bit."""
        table = self.table()
        sums = np.array([[math.fsum(column) for column in table.T]])
        return float(self.number(sums, len(self))[0])

    def table(self) -> Floats:
        """What is summed, [items, sums]."""
        if self.rule != "macro-f1":
            return np.stack([self.columns[n].astype(float) for n in _COLUMNS[self.rule]], axis=1)
        predicted, wanted = self.columns["predicted"][:, None], self.columns["wanted"][:, None]
        labels = np.unique(np.concatenate((predicted, wanted)))[None, :]
        said, right = predicted == labels, wanted == labels
        return np.concatenate((said & right, said, right), axis=1).astype(float)

    def number(self, sums: Floats, items: int) -> Floats:
        """[draws] from sums [draws, sums] over so many items each."""
        found: Floats = _NUMBERS[self.rule](sums, items)
        return found


def _mean(sums: Floats, items: int) -> Floats:
    return sums[:, 0] / items


def _ratio(sums: Floats, items: int) -> Floats:
    return sums[:, 0] / np.maximum(sums[:, 1], 1.0)


def _exp_ratio(sums: Floats, items: int) -> Floats:
    with np.errstate(over="ignore"):  # infinite, which whoever asked refuses
        found: Floats = np.exp(_ratio(sums, items))
    return found


def _macro_f1(sums: Floats, items: int) -> Floats:
    both, said, right = np.split(sums, 3, axis=1)
    occurs = said + right
    each = np.divide(2 * both, occurs, out=np.zeros_like(both), where=occurs > 0)
    found: Floats = each.sum(axis=1) / (occurs > 0).sum(axis=1)
    return found


def _bleu(sums: Floats, items: int) -> Floats:
    """As sacrebleu counts it (Post 2018, arXiv:1804.08771): orders without a match are smoothed by
    halves, and text without a run of four words scores nothing."""
    length, wanted = sums[:, 0], sums[:, 1]
    right, written = sums[:, 2 : 2 + ORDERS], sums[:, 2 + ORDERS :]
    halves = 2.0 ** np.cumsum(right == 0, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(right > 0, right, 1 / halves) / written
        logs = np.log(100 * share).sum(axis=1) / ORDERS
        brief = np.where(length < wanted, np.exp(1 - wanted / length), 1.0)
    scored = (written > 0).all(axis=1) & (right > 0).any(axis=1)
    return np.where(scored, brief * np.exp(np.where(scored, logs, 0.0)), 0.0)


_NUMBERS: dict[Rule, Callable[[Floats, int], Floats]] = {
    "mean": _mean,
    "ratio": _ratio,
    "exp-ratio": _exp_ratio,
    "bleu": _bleu,
    "macro-f1": _macro_f1,
}


def mean_of(values: Sequence[float] | NDArray[Any]) -> ItemScores:
    """A metric that is the mean of what each item scores."""
    return ItemScores("mean", {"value": np.asarray(values)})


# -- a model's scores, and their file ------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Scores(Mapping[str, ItemScores]):
    """A model's metrics on one role, by name.

    Attributes:
        fingerprint: of the role's items; only scores of the same items can be paired.
        of: metric -> what each item scored; metrics that are not of items have none.
    """

    fingerprint: str
    of: Mapping[str, ItemScores]

    def __getitem__(self, metric: str) -> ItemScores:
        if metric not in self.of:
            known = ", ".join(self.of) or "none"
            raise MetricError("scores of items: no such metric", got=metric, allowed=known)
        return self.of[metric]

    def __contains__(self, metric: object) -> bool:
        return metric in self.of

    def __iter__(self) -> Iterator[str]:
        return iter(self.of)

    def __len__(self) -> int:
        return len(self.of)

    def pack(self) -> bytes:
        """As a compressed npz, without pickle: `metric:rule:column` -> [items]."""
        arrays = {
            f"{metric}:{scores.rule}:{column}": np.ascontiguousarray(values)
            for metric, scores in self.of.items()
            for column, values in scores.columns.items()
        }
        file = io.BytesIO()
        np.savez_compressed(file, **{"items::": np.array(self.fingerprint)}, **arrays)  # type: ignore[arg-type]
        return file.getvalue()

    def text(self) -> str:
        """The same as text, to travel or to lie in JSON."""
        return base64.b64encode(self.pack()).decode("ascii")


def unpack(data: bytes) -> Scores:
    """The inverse of `Scores.pack`.

    Raises:
        MetricError: what is not such a file, or a torn one.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise MetricError(f"scores of items: not a file of them: {error}") from error
    fingerprint = str(arrays.pop("items::", ""))
    rules: dict[str, Rule] = {}
    columns: dict[str, dict[str, NDArray[Any]]] = {}
    for name, values in arrays.items():
        metric, rule, column = name.rsplit(":", 2)
        rules[metric] = rule  # type: ignore[assignment]  # checked by ItemScores
        columns.setdefault(metric, {})[column] = values
    return Scores(fingerprint, {one: ItemScores(rules[one], columns[one]) for one in columns})


def from_text(text: str) -> Scores:
    """The inverse of `Scores.text`."""
    try:
        return unpack(base64.b64decode(text, validate=True))
    except ValueError as error:
        raise MetricError(f"scores of items: no such text: {error}") from error


def scores_file(results: Path, uid: str) -> Path:
    """A trial's file, beside the folder of results; `uid` is its name in files."""
    return results.parent / "scores" / f"{uid}.npz"


def read_scores(path: Path) -> Scores | None:
    """A trial's file; None where there is none, as of trials of older versions."""
    try:
        return unpack(path.read_bytes())
    except FileNotFoundError:
        return None
