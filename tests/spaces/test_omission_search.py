"""The space of published depth searches: what a point means, and where it starts."""

import optuna
import pytest
from pydantic import ValidationError

from search.study.load import load_study
from search.study.space import load_space
from spaces.omission_search import OmissionSearchSpace
from trainables.core.places import CHECKOUT
from trainables.omission import SearchedOmission
from trainables.stage import Facts

FACTS = Facts(blocks=6)


def test_a_point_is_a_search() -> None:
    space = OmissionSearchSpace(budgets=(3,), losses=("kl",), by=("evolve",), offspring=5)
    point = {"omission.by": "evolve", "omission.budget": 3, "omission.loss": "kl"}
    [stage] = space.stages(optuna.trial.FixedTrial(point), FACTS)
    assert stage == SearchedOmission(3, "kl", "evolve", offspring=5)


def test_it_starts_with_all_budgets_of_one_search() -> None:
    starts = OmissionSearchSpace(budgets=(4, 1, 2), by=("greedy", "window")).starts(FACTS)
    assert [point["omission.budget"] for point in starts] == [1, 2, 4]
    assert {point["omission.by"] for point in starts} == {"greedy"}


@pytest.mark.parametrize("wrong", [{"budgets": ()}, {"budgets": (0,)}, {"by": ("guess",)}])
def test_ranges_that_mean_nothing_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        OmissionSearchSpace(**wrong)  # type: ignore[arg-type]


def test_the_study_that_comes_along_is_one() -> None:
    study = load_study(CHECKOUT / "spaces" / "studies" / "depth-smollm2.toml")
    assert isinstance(load_space(study.space), OmissionSearchSpace)


def test_a_loss_is_asked_only_where_one_judges() -> None:
    space = OmissionSearchSpace(by=("window", "greedy"), losses=("ppl", "kl"))
    point = {"omission.by": "window", "omission.budget": 2}
    assert space.stages(optuna.trial.FixedTrial(point), FACTS) == [SearchedOmission(2, by="window")]
    assert "omission.loss" not in space.starts(FACTS)[0]
