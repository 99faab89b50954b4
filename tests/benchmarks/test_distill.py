"""What the benchmark of distillation says of its seeds."""

import json

import pytest

from benchmarks.distill import AGAINST, cases, main, paired


def test_the_interval_is_students_of_the_differences() -> None:
    """By hand: differences .01 .02 .03 .02 .02, mean .02, deviation .00707, t(4) = 2.776."""
    gap = paired([0.81, 0.72, 0.93, 0.52, 0.62], [0.80, 0.70, 0.90, 0.50, 0.60])
    assert gap.mean == pytest.approx(0.02)
    assert gap.high - gap.mean == pytest.approx(2.776 * 0.0070711 / 5**0.5, rel=1e-4)
    assert gap.mean - gap.low == pytest.approx(gap.high - gap.mean)
    assert gap.verdict == "the teacher helps"


def test_what_the_seeds_do_not_show_is_not_claimed() -> None:
    assert paired([0.8, 0.7, 0.9], [0.7, 0.8, 0.9]).verdict == "no difference that these seeds show"
    assert paired([0.50, 0.51], [0.80, 0.81]).verdict == "the teacher hurts"


def test_every_arm_has_its_own_baseline() -> None:
    scores = {name: [0.8 + number / 100, 0.81 + number / 50] for number, name in enumerate(AGAINST)}
    told = cases(scores, equal=True)
    assert list(told) == ["labels, teacher", "labels, teacher, texts"]
    assert told["labels, teacher, texts"]["baseline"] == pytest.approx(0.835)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits", pytest.param("trec", marks=pytest.mark.assets)])
def test_the_command_says_it_in_numbers_and_in_words(
    name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    main(["--case", name, "--threads", "1"])
    told = capfd.readouterr().out
    for case in json.loads(told.splitlines()[-1]).values():
        assert case["equal"], "naive training gives the same weights"
        assert case["difference"] == pytest.approx(case["ours"] - case["baseline"], abs=2e-4)
        low, high = case["interval"]
        assert low <= case["difference"] <= high
        assert (low > 0) == (case["says"] == "the teacher helps")
        assert case["says"] in told
