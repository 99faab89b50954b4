"""How well effects of layers, measured beforehand, rank what the layers are worth once plugged in.

A layer's worth is the mean metric of the trials that used it; where there is a reference of the
same seed, less that one's. Told are the rank correlation (Spearman's) and the regret: how much
worse the picked layer is than the best one that was tried.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean
from typing import TYPE_CHECKING, Any

from search.journal.view import View
from search.report.across.pairs import arms

if TYPE_CHECKING:
    from rich.table import Table

_FEW = 3  # layers, for a rank correlation


@dataclass(frozen=True)
class Ranking:
    """What effects foretold of one donor's layers.

    Attributes:
        layers: layer -> (effect, worth, trials), of those that were tried.
        pick: the layer with the largest effect.
        count: how many layers there are.
        correlation: of the ranks of effects and worths; None where the layers are too few or alike.
        regret: the best worth less the pick's; None where the pick was not tried.
    """

    donor: str
    layers: dict[int, tuple[float, float, int]]
    pick: int
    count: int

    @property
    def correlation(self) -> float | None:
        effects, worths = zip(*((e, w) for e, w, _ in self.layers.values()), strict=True)
        return spearman(effects, worths)

    @property
    def regret(self) -> float | None:
        if self.pick not in self.layers:
            return None
        best = max(worth for _, worth, _ in self.layers.values())
        return best - self.layers[self.pick][1]

    @property
    def complete(self) -> bool:
        """Whether every layer was tried."""
        return len(self.layers) == self.count


def rankings(view: View, metric: str) -> list[Ranking]:
    """One for each donor whose layers were looked at and tried."""
    reference = {
        seed: result.metrics[metric]
        for trials in arms(view).values()
        for seed, result in trials.items()
        if _told(result.record, "donor_bytes") == 0
    }
    found: dict[str, dict[int, list[float]]] = {}
    selections: dict[str, dict[str, Any]] = {}
    for trials in arms(view).values():
        for seed, result in trials.items():
            selection, layer = _selection(result.record), _told(result.record, "layer")
            if selection is None or layer is None or not _plain(result.record):
                continue
            donor = selection["llm_type"]
            selections[donor] = selection
            worth = result.metrics[metric] - reference.get(seed, 0.0)
            if seed in reference or not reference:
                found.setdefault(donor, {}).setdefault(int(layer), []).append(worth)
    return [_ranking(donor, found[donor], selections[donor]) for donor in found]


def _ranking(donor: str, worths: dict[int, list[float]], selection: dict[str, Any]) -> Ranking:
    effects = selection["effects"]
    layers = {n: (effects[n], mean(worths[n]), len(worths[n])) for n in sorted(worths)}
    return Ranking(donor, layers, selection["best_llm_layer"], len(effects))


def _stages(record: Any) -> list[dict[str, Any]]:
    return list(record.get("stages") or ())


def _told(record: Any, name: str) -> float | None:
    found = [one["counts"][name] for one in _stages(record) if name in one["counts"]]
    return found[-1] if found else None


def _selection(record: Any) -> dict[str, Any] | None:
    found = [s["details"]["selection"] for s in _stages(record) if "selection" in s["details"]]
    return found[-1] if found else None


def _plain(record: Any) -> bool:
    """Whether one layer was used as it is, so that its effect says something of it."""
    settings = [one["settings"] for one in _stages(record) if "donor" in one["settings"]]
    return all(s.get("layers") == 1 and s["frozen"] and not s["random"] for s in settings)


def spearman(one: Sequence[float], other: Sequence[float]) -> float | None:
    """The correlation of ranks; equal values share their mean rank."""
    a, b = _ranks(one), _ranks(other)
    if len(a) < _FEW:
        return None
    middle = (len(a) + 1) / 2
    top = sum((x - middle) * (y - middle) for x, y in zip(a, b, strict=True))
    bottom = sum((x - middle) ** 2 for x in a) * sum((y - middle) ** 2 for y in b)
    return None if bottom == 0 else float(top / bottom**0.5)


def _ranks(values: Sequence[float]) -> list[float]:
    ordered = sorted(values)
    last = len(ordered) - 1
    return [
        (ordered.index(v) + 1 + last - ordered[::-1].index(v) + 1) / 2 for v in values
    ]  # the first and the last place of equal ones


def ranking_table(one: Ranking, metric: str) -> "Table":
    """For people: every layer that was tried, and below what the effects foretold."""
    from rich.table import Table

    table = Table(title=f"layers of {one.donor}: effect before, {metric} after", caption=_said(one))
    for name in ("layer", "effect", metric, "trials", ""):
        table.add_column(name, justify="right", no_wrap=True)
    for number, (effect, worth, trials) in one.layers.items():
        mark = "picked" if number == one.pick else ""
        table.add_row(str(number), f"{effect:.4f}", f"{worth:+.4f}", str(trials), mark)
    return table


def _said(one: Ranking) -> str:
    tried = f"all {one.count}" if one.complete else f"{len(one.layers)} of {one.count}"
    ranks = "no rank correlation yet"
    if one.correlation is not None:
        ranks = f"rank correlation {one.correlation:+.2f}"
    regret = "the pick was not tried"
    if one.regret is not None:
        regret = f"regret of the pick {one.regret:.4f}"
    return f"{tried} layers tried; {ranks}; {regret}"
