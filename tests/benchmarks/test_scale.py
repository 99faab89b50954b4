"""The simulation hands out the whole budget, and its clock is the driver's."""

from pathlib import Path

import pytest
from optuna.trial import TrialState

from benchmarks.scale import Simulation

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own


def test_a_few_gpus_are_kept_busy_to_the_end(tmp_path: Path) -> None:
    made = Simulation(gpus=4, trials=24, seconds=60.0, sampler="random", folder=tmp_path)
    found = made.run()
    rows = made.journal.trials()
    assert [row.state for row in rows] == [TrialState.COMPLETE] * 25
    assert 95 < found["utilisation_percent"] <= 100
    assert made.now > 24 * 60 * 0.8 / 4 and found["driver_ms"] > 0
    made.storage.engine.dispose()


def test_a_driver_that_is_slower_than_its_trials_leaves_gpus_idle(tmp_path: Path) -> None:
    made = Simulation(gpus=16, trials=48, seconds=0.001, sampler="random", folder=tmp_path)
    assert made.run()["utilisation_percent"] < 50
    made.storage.engine.dispose()
