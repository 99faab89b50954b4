"""The studies over neurons: their phases fit the space, and say what was published."""

from pathlib import Path
from typing import Any

import pytest

from search.samplers.build import make_sampler
from search.samplers.phases import PhasesSampler
from search.study.load import load_study
from search.study.schema import Study
from search.study.space import load_space
from search.study.starting_points import read_point
from trainables.stage import Facts

STUDIES = Path(__file__).parents[2] / "spaces" / "studies"
LEFT = {"smartfarm-gemma3-1b": 95, "neurons-smollm2": 95, "neurons-gemma3-270m": 70}  # % of ROUGE-L


def phases_of(study: Study) -> PhasesSampler:
    space = load_space(study.space)

    def ask(trial: Any) -> object:
        return space.stages(trial, Facts(26, survey={"widths": [6912] * 26}))

    for point in study.first:
        read_point(point, ask, "first")
    made = make_sampler(
        study.sampler, seed=0, existing=0, trials=None, ask=ask, directions=study.directions
    )
    assert isinstance(made, PhasesSampler)
    return made


@pytest.mark.parametrize("name", LEFT)
def test_every_phase_fits_the_space(name: str) -> None:
    study = load_study(STUDIES / f"{name}.toml")
    sampler = phases_of(study)
    assert sampler.phases[-1].around is not None and sampler.phases[-1].trials is None
    listed = sum(map(len, sampler.points))
    assert listed < (study.budget.trials or 0)  # TPE gets its turn
    limits = {limit.key for limit in study.limits}
    assert f"rouge_l >= {LEFT[name]}% of baseline" in limits


def test_the_published_rows_are_tried_as_published() -> None:
    study = load_study(STUDIES / "smartfarm-gemma3-1b.toml")
    sizes, first = phases_of(study).points, study.first[0]
    assert [len(points) for points in sizes] == [1, 5, 2, 4, 0]
    ratios = [(p["neurons.prune_ratio"], p["neurons.max_prune_per_layer"]) for p in sizes[1]]
    assert ratios == [(0.1, 0.3), (0.15, 0.35), (0.2, 0.4), (0.25, 0.45), (0.3, 0.5)]
    scales = [first[f"neurons.layer_scale.{third}"] for third in ("early", "middle", "late")]
    weights = [first[f"neurons.weight.{part}"] for part in ("mean", "max", "activity")]
    assert (first["neurons.prune_ratio"], first["neurons.max_prune_per_layer"]) == (0.25, 0.45)
    assert scales == [0.2, 1.0, 2.2] and weights == [0.8, 0.1, 0.1]
    targets = {limit.metric: (limit.at_most, limit.factor) for limit in study.limits}
    assert targets == {
        "rouge_l": (False, 0.95),
        "bleu": (False, 0.9),
        "response_ms": (True, 0.7),
        "peak_memory": (True, 0.8),
    }
