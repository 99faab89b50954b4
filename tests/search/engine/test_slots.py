"""How many trials fit on what Ray has."""

import pytest

from search.engine.ray_session import _slots
from search.study.schema import Resources
from trainables.core.errors import UserError


@pytest.mark.parametrize(
    ("wanted", "have", "fits"),
    [
        ({"cpus": 1}, {"CPU": 2.0}, 2),
        ({"cpus": 3}, {"CPU": 8.0}, 2),
        ({"cpus": 1, "gpus": 0.5}, {"CPU": 16.0, "GPU": 4.0}, 8),
        ({"cpus": 1, "gpus": 0.1}, {"CPU": 16.0, "GPU": 1.0}, 10),
        ({"cpus": 1, "gpus": 2}, {"CPU": 16.0, "GPU": 4.0}, 2),
        ({"cpus": 1, "workers": 3}, {"CPU": 16.0}, 3),
    ],
)
def test_slots(wanted: dict[str, float], have: dict[str, float], fits: int) -> None:
    assert _slots(Resources(**wanted), have) == fits  # type: ignore[arg-type]


def test_a_trial_that_fits_nowhere_is_said() -> None:
    with pytest.raises(UserError, match="0 GPUs"):
        _slots(Resources(gpus=1.0), {"CPU": 2.0})
