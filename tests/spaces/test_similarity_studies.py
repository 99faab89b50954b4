"""The offline studies of similarity pruning, row by row, from the data to the table's numbers."""

from pathlib import Path
from typing import Any

import optuna
import pytest

from search.study.load import load_study
from search.study.space import load_space
from trainables.bench.bench import Bench
from trainables.core.spec import BenchSpec
from trainables.stage import Facts, drain
from trainables.trial import open_bench, run_stages

STUDIES = Path(__file__).parents[2] / "spaces" / "studies"


def opened(name: str, cache: Path) -> tuple[Any, Bench]:
    study = load_study(STUDIES / f"{name}.toml", {})
    spec = BenchSpec(
        model=study.model,
        data=study.data,
        objectives=tuple(study.objectives),
        seed=study.seed,
        cache=str(cache),
    )
    return study, open_bench(spec)


def record_of(study: Any, bench: Bench, row: int) -> dict[str, Any]:
    """What the row's trial reports."""
    trial = optuna.trial.FixedTrial(study.first[row])
    stages = load_space(study.space).stages(trial, Facts(blocks=0))
    return drain(run_stages(bench.fork(), stages, f"x/{row}"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "metric", "before", "two_passes", "with_wanda"),
    [
        pytest.param("similarity-digits", "accuracy", 12, 5, 9),
        pytest.param("similarity-minilm", "accuracy", 6, 3, 7, marks=pytest.mark.assets),
        pytest.param("similarity-t5", "exact_match", 12, 2, 5, marks=pytest.mark.assets),
    ],
)
def test_two_passes_then_wanda(
    name: str, metric: str, before: int, two_passes: int, with_wanda: int, tmp_path: Path
) -> None:
    """Fewer blocks and half of their weights cost at most the points that a pass may cost."""
    study, bench = opened(name, tmp_path)
    original = bench.fork().measure((metric,))[0][metric]
    pruned = record_of(study, bench, two_passes)
    iterate = pruned["stages"][0]["counts"]
    assert [one["accepted"] for one in iterate["passes"]] == [True, True]
    assert iterate["blocks"] <= before - 3
    assert pruned["metrics"][metric] >= original - 0.04
    final = record_of(study, bench, with_wanda)
    assert final["stages"][0]["counts"]["passes"][0]["epochs_run"] == 0, "shared with the row above"
    assert final["metrics"]["nonzero_parameters"] < pruned["metrics"]["nonzero_parameters"]
    assert final["metrics"][metric] >= original - 0.04
