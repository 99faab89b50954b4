"""The space of magnitude pruning: what a point means, and what is refused when a study is read."""

from typing import Any

import pytest
from optuna.trial import FixedTrial
from pydantic import ValidationError

from spaces.magnitude import MagnitudeSpace
from trainables.core.errors import PlanError
from trainables.core.spec import TrainSpec
from trainables.magnitude import GradualMagnitude, Magnitude
from trainables.recover import Recover
from trainables.stage import Facts, Stage

FACTS = Facts(blocks=4)
TRAINING = TrainSpec(epochs=1)


def stages(space: MagnitudeSpace, **params: Any) -> list[Stage]:
    return space.stages(FixedTrial({f"magnitude.{k}": v for k, v in params.items()}), FACTS)


def test_a_point_is_a_rule_and_perhaps_a_retraining() -> None:
    space = MagnitudeSpace(recover=TRAINING, retrain=("none", "after", "gradual"), every=3)
    point = {"granularity": "rows", "percent": 30, "scope": "global"}
    rule = Magnitude(0.3, "global", "rows")
    assert stages(space, **point, retrain="none") == [rule]
    assert stages(space, **point, retrain="after") == [rule, Recover(TRAINING)]
    assert stages(space, **point, retrain="gradual") == [
        GradualMagnitude(rule, Recover(TRAINING), every=3)
    ]


def test_a_pattern_has_no_percent() -> None:
    space = MagnitudeSpace(granularities=("unstructured", "2:4"), retrain=("none",))
    assert stages(space, granularity="2:4") == [Magnitude(pattern=(2, 4))]


@pytest.mark.parametrize("name", ["4:4", "0:4", "columns", "2:4:8"])
def test_what_is_no_granularity_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match='"unstructured", "rows", or N:M'):
        MagnitudeSpace(granularities=(name,))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"granularities": ("2:4",), "retrain": ("gradual",)}, "a pattern has no share to grow"),
        ({"low": 50, "high": 40}, "low = 50, or more"),
    ],
)
def test_ranges_that_do_not_fit_are_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises((PlanError, ValidationError), match=said):
        MagnitudeSpace(**fields)
