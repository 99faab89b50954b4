"""Omission sets found by a search of their own, inside one trial.

The published searches as a stage: SLEB's greedy removal, EvoPress's evolution, contiguous windows,
and ranking by influence. What judges a set is a loss on the calibration role; sets that begin
alike share their forward passes, and losses are kept on disk, so that a larger budget, another
trial or a resumed one pays only for sets that nobody has tried.

Source: "SLEB", Song et al., ICML 2024; "EvoPress", Sieberling et al., ICML 2025 (arXiv 2410.14649);
"The Unreasonable Ineffectiveness of the Deeper Layers", Gromov et al., ICLR 2025
(arXiv 2403.17887); "ShortGPT", Men et al., 2024; task losses: "PuDDing", Wee et al., ICML 2025.
"""

import math
from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from trainables.bench.models.blockwise import walk_alone
from trainables.bench.models.structure import blocks, fixed_blocks
from trainables.core.cache import digest
from trainables.core.errors import PlanError
from trainables.core.lineage import code
from trainables.core.pictures import Bars
from trainables.core.spec import Task
from trainables.core.types import Progress
from trainables.omission.evaluator import PrefixEvaluator, alone
from trainables.omission.importance import BlockInfluence, windows
from trainables.omission.loss_log import Memo
from trainables.omission.losses import Loss, answers, kl, ppl
from trainables.omission.method import Omission, check_unit
from trainables.omission.searches import Omit, evolve, greedy_steps, lowest, window
from trainables.stage import Bench, Stage, Summary

LossName: TypeAlias = Literal["ppl", "kl", "tl", "tld"]
Search: TypeAlias = Literal["greedy", "evolve", "window", "influence"]
Unit: TypeAlias = Literal["block", "attention", "ffn"]
_JUDGE: dict[tuple[LossName, LossName], tuple[Task, ...]] = {  # losses, and the data they are of
    ("ppl", "kl"): ("language-modelling", "generation"),
    ("tl", "tld"): ("multiple-choice",),
}
FIELD: dict[Unit, str] = {"block": "skip", "attention": "attention", "ffn": "ffn"}


@dataclass(frozen=True)
class SearchedOmission(Stage):
    """Search for the `budget` units that the model misses least, and skip them.

    Attributes:
        budget: how many units go.
        loss: `ppl`, `kl` on running text; `tl`, `tld` on multiple-choice items (see losses.py).
        by: greedy, one after the other; evolve, from the least influential ones on; window, the
            run of blocks whose end is most like its beginning; influence, the ranking alone.
        unit: whole blocks, or only their attention or FFN (by greedy or evolve).
        generations, offspring: of evolve.
    """

    budget: int = 1
    loss: LossName = "ppl"
    by: Search = "greedy"
    unit: Unit = "block"
    generations: int = 20
    offspring: int = 16

    def __post_init__(self) -> None:
        for name in ("budget", "generations", "offspring"):
            value = getattr(self, name)
            self.require(name, type(value) is int and value >= 1, "a whole number from 1 on")
        for name, kind in (("loss", LossName), ("by", Search), ("unit", Unit)):
            self.require(name, getattr(self, name) in get_args(kind), " or ".join(get_args(kind)))
        whole = self.unit == "block" or self.by in ("greedy", "evolve")
        self.require("unit", whole, f'"block" where by = "{self.by}"')

    def check(self, bench: Bench) -> None:
        """Raises PlanError where this cannot be searched on the bench's model and data."""
        if self.by != "influence":
            walk_alone(bench.model)
        if self.unit != "block":
            check_unit(bench.model, self.unit)
        if self.by not in ("greedy", "evolve"):
            return
        kinds = [names for names, tasks in _JUDGE.items() if bench.data.task in tasks]
        if not any(self.loss in names for names in kinds):
            raise PlanError(
                f"SearchedOmission.loss on {bench.data.task} data",
                got=self.loss,
                allowed=" or ".join(f'"{name}"' for names in kinds for name in names)
                or '"window" or "influence" as by, which look at no loss',
            )

    def on(self, bench: Bench) -> Generator[Progress, None, Summary]:
        """Search on the calibration role, then skip what was found."""
        self.check(bench)
        order, losses = yield from self._search(bench)
        found = Omission(**{FIELD[self.unit]: order})
        done = found.apply(bench.model, {})
        picture = Bars("loss after each removal", losses, (), self.loss, "units removed")
        return Summary(
            done.effects,
            done.counts,
            {"order": list(order), "losses": list(losses)},
            (picture,) if losses else (),
            f"{self.by} {self.loss}: {len(order)} {self.unit}s",
        )

    def _search(self, bench: Bench) -> Generator[Progress, None, tuple[Omit, tuple[float, ...]]]:
        count, fixed = len(blocks(bench.model)), fixed_blocks(bench.model)
        if self.by == "influence":
            return self._ranking(bench, fixed), ()
        if self.by == "window":
            angles = windows(bench.model, bench.batches("calibration"), self.budget)
            return window(angles, self.budget, fixed=fixed), ()
        score = self._score(bench)
        if self.by == "greedy":
            found = yield from greedy_steps(count, self.budget, score, fixed=fixed)
            return found.order, found.losses
        best: list[tuple[Omit, float]] = []
        for step in evolve(
            self._ranking(bench, fixed),
            [[unit for unit in range(count) if unit not in fixed]],
            score,
            generations=self.generations,
            offspring=self.offspring,
            seed=bench.seed,
        ):
            best.append(step)
            yield {"generation": float(len(best) - 1), "loss": step[1]}
        return best[-1][0], tuple(loss for _, loss in best)

    def _ranking(self, bench: Bench, fixed: Collection[int]) -> Omit:
        influence: list[float] = bench.stats(BlockInfluence)["influence"].tolist()
        return lowest(influence, self.budget, fixed=fixed)

    def _score(self, bench: Bench) -> Callable[..., Sequence[float]]:
        loss = self._loss(bench)
        if bench.spec.naive:
            return lambda sets, bound=math.inf: alone(bench.model, loss, sets, self.unit)
        memo = Memo(bench.cache.folder / "losses", self._key(bench, loss))
        return PrefixEvaluator(bench.model, loss, unit=self.unit, memo=memo)

    def _key(self, bench: Bench, loss: Loss) -> str:
        """What a loss depends on, the omitted units aside."""
        import transformers  # the driver imports this file, and does without

        where = (bench.device.type, str(bench.model.dtype), transformers.__version__)
        return digest(bench.subject.lineage.key, loss.fingerprint(), self.unit, code(), where)

    def _loss(self, bench: Bench) -> Loss:
        if self.loss in ("tl", "tld"):
            items = bench.data.items("calibration")
            length = bench.spec.data.max_length
            return answers(self.loss, items, bench.processor, max_length=length)
        text = bench.data.batches("calibration")
        return ppl(text) if self.loss == "ppl" else kl(text)
