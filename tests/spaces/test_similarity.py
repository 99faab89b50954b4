"""The similarity space: what a point means, and that the ranges of a study reach the stages."""

from pathlib import Path

import optuna
import pytest

from search.errors import StudyError
from search.study.load import load_study
from search.study.schema import SpaceSpec
from search.study.space import load_space
from spaces.similarity import SimilaritySpace
from trainables.recover import Recover
from trainables.similarity.iterative import Iterate
from trainables.similarity.method import Similarity, SimilarityPerSample
from trainables.stage import Facts
from trainables.wanda import Wanda

STUDIES = Path(__file__).parents[2] / "spaces" / "studies"
POINT = {
    "similarity.threshold": 98.0,
    "similarity.k": 2,
    "similarity.passes": 2,
    "recover.freeze": "part",
    "wanda.percent": 50,
    "wanda.retrain": True,
}
FACTS = Facts(blocks=12)
SPACE = SimilaritySpace()


def test_a_point_is_a_chain() -> None:
    iterate, wanda, again = SPACE.stages(optuna.trial.FixedTrial(POINT), FACTS)
    assert isinstance(iterate, Iterate) and type(iterate.similarity) is Similarity
    assert (iterate.similarity.threshold, iterate.similarity.k, iterate.passes) == (98.0, 2, 2)
    assert isinstance(again, Recover) and again == iterate.recover and again.freeze == "part"
    assert wanda == Wanda(0.5)


def test_no_zeros_and_no_second_training() -> None:
    (only,) = SPACE.stages(optuna.trial.FixedTrial(POINT | {"wanda.percent": 0}), FACTS)
    assert isinstance(only, Iterate)
    assert len(SPACE.stages(optuna.trial.FixedTrial(POINT | {"wanda.retrain": False}), FACTS)) == 2


def test_a_study_sets_the_ranges() -> None:
    options = {
        "thresholds": [70, 80.5],
        "per_sample": True,
        "recover": {"epochs": 1, "lr": 2e-4, "optimiser": "adam", "batch_size": 64},
        "max_drop": 1,
        "metric": "rouge_l",
    }
    bound = load_space(SpaceSpec(name="similarity", options=options))
    trial = optuna.trial.FixedTrial(POINT | {"similarity.threshold": 80.5})
    iterate = bound.stages(trial, FACTS)[0]
    assert type(iterate.similarity) is SimilarityPerSample
    assert iterate.recover == Recover(
        epochs=1, lr=2e-4, optimiser="adam", batch_size=64, freeze="part"
    )
    assert (iterate.max_drop, iterate.metric) == (1.0, "rouge_l")


@pytest.mark.parametrize(
    "wrong",
    [
        {"rule": "nearest"},
        {"recover": {"epochs": 0}},
        {"k": [0]},
        {"treshold": [1]},
        {"thresholds": []},
        {"wanda": [100]},
    ],
)
def test_a_wrong_range_is_told(wrong: dict[str, object]) -> None:
    with pytest.raises(StudyError, match=next(iter(wrong))):
        load_space(SpaceSpec(name="similarity", options=wrong))


def test_a_sampler_can_search_it() -> None:
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
    for _ in range(5):
        stages = SPACE.stages(study.ask(), FACTS)
        assert isinstance(stages[0], Iterate) and 1 <= len(stages) <= 3


@pytest.mark.parametrize("path", sorted(STUDIES.glob("similarity-*.toml")), ids=lambda p: p.stem)
def test_every_row_of_a_study_is_a_point(path: Path) -> None:
    study = load_study(path, {})
    assert study.name == path.stem
    assert study.budget.trials == len(study.first)
    ours = load_space(study.space)
    for point in study.first:
        assert isinstance(ours.stages(optuna.trial.FixedTrial(point), FACTS)[0], Iterate)
