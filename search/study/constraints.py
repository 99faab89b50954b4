"""Limits on metrics: `<= 130% of baseline`, `>= baseline - 0.04`, `<= 5`; and `--where` clauses.

A limit is `factor * baseline + offset`, where the baseline is the untouched model's value.
"""

import math
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from trainables.bench.metrics.catalogue import METRIC_FACTS
from trainables.core.bootstrap import interval
from trainables.core.errors import UserError, did_you_mean
from trainables.core.scores import Scores

NUMBER = r"[+-]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
METRIC = re.compile(r"\s*([A-Za-z_][\w./-]*)\s*(.*)", re.DOTALL)
OPERATOR = re.compile(r"\s*([<>=!~≤≥]+)?\s*(.*?)\s*", re.DOTALL)
ABSOLUTE = re.compile(f"({NUMBER})")
PERCENT = re.compile(rf"({NUMBER})\s*%\s*of\s+(?:the\s+)?baseline")
OFFSET = re.compile(rf"(?:the\s+)?baseline(?:\s*([+-])\s*({NUMBER}))?")
ALLOWED = '"<= 5", ">= 0.9", "<= 130% of baseline", ">= baseline - 0.04"'
NEAR_ZERO = 0.05  # of what a metric can reach
TOLERANCE = 1e-9  # of the limit: 0.92 - 0.04 is not exactly 0.88 in binary


@dataclass(frozen=True)
class Constraint:
    """One limit on one metric."""

    metric: str
    at_most: bool
    factor: float  # of the baseline; 0 where the limit is a plain number
    offset: float
    text: str  # as the user wrote it

    @property
    def key(self) -> str:
        """Its name in a trial's row."""
        return f"{self.metric} {self.text}"

    @property
    def relative(self) -> bool:
        """Whether the limit depends on the baseline."""
        return self.factor != 0

    def limit(self, baseline: float | None) -> float:
        """The number the metric is held against."""
        if not self.relative:
            return self.offset
        if baseline is None:
            raise UserError(
                f"{self.metric} {self.text}: the baseline has no {self.metric}",
                do="measure the baseline first, or give a number",
            )
        return self.factor * baseline + self.offset

    def violation(self, value: float, baseline: float | None = None) -> float:
        """At most 0 where the limit holds, else by what share of the limit it is missed."""
        if math.isnan(value):
            return math.inf
        limit = self.limit(baseline)
        scale = abs(limit) or 1.0
        excess = (value - limit if self.at_most else limit - value) / scale
        return 0.0 if 0 < excess <= TOLERANCE else excess

    def describe(self, baseline: float | None = None) -> str:
        """`perplexity <= 130% of baseline (<= 24.7)`."""
        said = self.key
        if not self.relative or baseline is None:
            return said
        return f"{said} ({'<=' if self.at_most else '>='} {self.limit(baseline):.6g})"


def doubts(limits: Iterable[Constraint], scores: Scores) -> list[str]:
    """What is to be said of limits that ask for a share of a baseline near zero: a ratio to noise.

    Near is within a twentieth of what a metric can reach, or an interval as wide as the value.

    Args:
        scores: what each item scored with the untouched model.
    """
    found = []
    for limit in limits:
        if limit.factor == 0 or limit.offset or limit.at_most or limit.metric not in scores:
            continue
        value, low, high = interval(limit.metric, scores)
        facts = METRIC_FACTS.get(limit.metric)
        reach = facts.high if facts is not None and math.isfinite(facts.high) else 0.0
        if low <= reach * NEAR_ZERO or high - low >= abs(value):
            found.append(
                f"{limit.key} means little: the untouched model has {value:.3g} ({low:.3g} to "
                f"{high:.3g}), which is near zero; ask in another way, or set a number"
            )
    return found


def parse_constraint(metric: str, text: object) -> Constraint:
    """Read one limit, such as `<= 130% of baseline`."""
    if not isinstance(text, str):
        allowed = 'a limit in quotes, such as "<= 5", or a list of them'
        raise UserError(metric, got=text, allowed=allowed)
    match = OPERATOR.fullmatch(text)
    operator, rest = (match.group(1) or "", match.group(2)) if match else ("", text)
    at_most = {"<=": True, "≤": True, ">=": False, "≥": False}.get(operator)
    if at_most is None:
        raise _refused(metric, text, operator)
    numbers = _limit(rest)
    if numbers is None:
        raise UserError(metric, got=text, allowed=ALLOWED)
    return Constraint(metric, at_most, *numbers, text=f"{'<=' if at_most else '>='} {rest}")


def parse_where(text: str, known: Collection[str] = ()) -> tuple[Constraint, ...]:
    """Read `accuracy >= 0.92 and parameters <= 1e8`; `known` are the metrics there are."""
    return tuple(_clause(clause, known) for clause in re.split(r"\s+and\s+", text.strip()))


def _clause(text: str, known: Collection[str]) -> Constraint:
    match = METRIC.fullmatch(text)
    if match is None or not match.group(2) or re.search(r"\sor\s", text):
        raise UserError(
            "where",
            got=text,
            allowed='METRIC LIMIT, joined by "and", such as "accuracy >= 0.92 and size <= 1e8"',
        )
    metric, limit = match.groups()
    if known and metric not in known:
        hint = did_you_mean(metric, known)
        raise UserError("where: unknown metric", got=metric, allowed=", ".join(known), do=hint)
    return parse_constraint(metric, limit)


def _limit(text: str) -> tuple[float, float] | None:
    """`(factor, offset)` of a limit, or None where it is not one."""
    if match := ABSOLUTE.fullmatch(text):
        return 0.0, float(match.group(1))
    if (match := PERCENT.fullmatch(text)) and (share := float(match.group(1))) > 0:
        return share / 100, 0.0
    if match := OFFSET.fullmatch(text):
        sign, number = match.groups()
        return 1.0, float(f"{sign}1") * float(number) if sign else 0.0
    return None


def _refused(metric: str, text: str, operator: str) -> UserError:
    hints = {
        "<": 'write "<=" instead of "<"',
        ">": 'write ">=" instead of ">"',
        "": 'begin with "<=" or ">="',
    }
    return UserError(metric, got=text, allowed=ALLOWED, do=hints.get(operator, hints[""]))
