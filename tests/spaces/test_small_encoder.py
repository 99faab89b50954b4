"""The conditional space: chains, what they ask for, and which of them make no sense."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FixedTrial

from search.study.schema import SpaceSpec
from search.study.space import UNKNOWN, check_chains, load_space
from spaces.quantize import QuantizeSpace
from spaces.space import Space, Trial
from tests.support.benches import tiny_bench
from tests.support.families import build
from trainables.codebook import Codebook, TuneCodebook
from trainables.core.errors import PlanError, UserError
from trainables.magnitude import Magnitude
from trainables.quantize import InHalfPrecision, Quantize, QuantizeMixed
from trainables.recover import Recover
from trainables.similarity.method import Similarity
from trainables.stage import Facts, Stage, check_order
from trainables.wanda import Wanda

FACTS = Facts(blocks=6, stacks=(6,))


def small(**options: Any) -> Space:
    return load_space(SpaceSpec(name="small_encoder", **options))


@pytest.mark.parametrize(
    ("params", "stages"),
    [
        (
            {"chain": "magnitude > recover > quantize", "magnitude.granularity": "unstructured"}
            | {"magnitude.percent": 40, "magnitude.scope": "global", "quantize.scheme": "int8"},
            [Magnitude(0.4, "global"), Recover(epochs=1), Quantize("int8")],
        ),
        (
            {"chain": "codebook", "codebook.bits": 5, "codebook.start": "linear"}
            | {"codebook.tune": True},
            [Codebook(5), TuneCodebook(epochs=1)],
        ),
        (
            {"chain": "similarity > recover > quantize", "similarity.threshold": 80.0}
            | {"quantize.scheme": "mixed", "quantize.budget": 25},
            [Similarity(80.0), Recover(epochs=1), QuantizeMixed(0.25)],
        ),
        ({"chain": "quantize", "quantize.scheme": "bfloat16"}, [InHalfPrecision("bfloat16")]),
    ],
)
def test_a_chain_asks_for_what_its_methods_want(
    params: dict[str, Any], stages: list[Stage]
) -> None:
    trial = FixedTrial(params)
    assert small().stages(trial, FACTS) == stages
    assert set(trial.distributions) == set(params)


def test_every_chain_is_a_start_and_makes_sense() -> None:
    space = small()
    names = [point["chain"] for point in space.starts(FACTS)]
    assert len(names) == len(set(names)) == 8
    for name in names:
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        study.enqueue_trial({"chain": name})
        check_order(space.stages(study.ask(), FACTS))


@pytest.mark.parametrize(
    ("chain", "said"),
    [
        (["quantize", "wanda"], "Wanda after Quantize, which leaves weights that are integers"),
        (["codebook", "recover"], "Recover after Codebook, which leaves weights that are codes"),
        (["quantize", "codebook"], "Codebook after Quantize"),
        (["codebook", "quantize"], "Quantize after Codebook"),
        (["recover", "quantize"], "nothing is there to recover from"),
        (["magnitude", "recover", "magnitude"], "magnitude twice"),
        (["magnitude", "distill"], "distill after magnitude"),
        (["similarity", "omission"], "omission after similarity"),
    ],
)
def test_a_chain_that_makes_no_sense_is_refused_when_the_space_is_loaded(
    chain: list[str], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        small(chains=[["magnitude"], chain])


@pytest.mark.parametrize(("name", "value"), [("chains", []), ("chains", [["shrink"]])])
def test_chains_are_of_known_steps(name: str, value: Any) -> None:
    with pytest.raises(UserError, match=name):
        small(**{name: value})


# -- a user's own space, tried out before any model is looked at --------------------------------


class Backwards(Space):
    """One of its four chains makes no sense."""

    def stages(self, trial: Trial, facts: Facts) -> list[Stage]:
        found: list[Stage] = [Wanda(0.5)] if trial.suggest_int("wanda", 0, 1) else []
        quantized = trial.suggest_categorical("quantize", ["no", "first"])
        return [Quantize(), *found] if quantized == "first" else found


class NeedsFacts(Space):
    """Looks up what only a survey tells."""

    def stages(self, trial: Trial, facts: Facts) -> list[Stage]:
        return [Wanda(facts.survey["share"])]


@dataclass(frozen=True)
class Another(Wanda):
    """Stands in for a student of its own."""

    @property
    def replaces(self) -> bool:
        return True


def test_a_space_is_asked_for_many_points_before_any_trial() -> None:
    with pytest.raises(UserError, match="space mine: a chain that makes no sense: Wanda after Qua"):
        check_chains(Backwards(), UNKNOWN, "mine")
    check_chains(NeedsFacts(), UNKNOWN, "mine")
    check_chains(small(), UNKNOWN, "small_encoder")


def test_a_model_that_is_replaced_is_not_pruned_before() -> None:
    check_order([Another(0.5), Wanda(0.5)])
    with pytest.raises(PlanError, match="puts another model in place of what Magnitude made"):
        check_order([Magnitude(0.5), Another(0.5)])


# -- what quantization spares -------------------------------------------------------------------


def test_blocks_and_kinds_may_be_spared() -> None:
    space = QuantizeSpace(schemes=("int8",), by_kind=True, most_spared=2)
    facts = Facts(blocks=3, stacks=(3,), survey={"harm": [0.1, 0.9, 0.5]})
    params = {"quantize.attention": 0, "quantize.ffn": 1, "quantize.spare.count": 2}
    params |= {f"quantize.spare.{n:02d}": 1 for n in range(3)}
    assert space.stages(FixedTrial(params), facts) == [
        Quantize("int8", spare=("attention",), spare_blocks=(1, 2))
    ]


def test_what_the_device_cannot_is_refused_before_the_first_trial(tmp_path: Path) -> None:
    bench = tiny_bench(tmp_path, build("bert"))
    assert QuantizeSpace(schemes=("int8", "bfloat16")).survey(bench) == {}
    assert len(QuantizeSpace(schemes=("mixed",)).survey(bench)["harm"]) == 4
    with pytest.raises(PlanError, match="float8-dynamic does not run on cpu in float32"):
        QuantizeSpace(schemes=("int8", "float8-dynamic")).survey(bench)
