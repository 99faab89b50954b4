"""Every method of ours is held to the contract that `trainables.testing` ships for users' own."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from transformers import PreTrainedModel

from tests.methods import METHODS, cases
from tests.support.families import FAMILIES, batches, build
from trainables import testing
from trainables.core.fork import put
from trainables.core.types import Batch
from trainables.stage import Method, Removed, Summary
from trainables.wanda import Wanda

OWED: list[Callable[[Method, PreTrainedModel, list[Batch]], None]] = [
    testing.check_calibration,
    testing.check_fork,
    testing.check_deterministic,
    testing.check_counts,
    testing.check_reload,
]


@pytest.mark.parametrize("check", OWED, ids=lambda check: check.__name__)
@pytest.mark.parametrize(("method", "name"), cases())
def test_every_method_keeps_the_contract(method: Method, name: str, check: Any) -> None:
    check(method, build(name), batches(name))


@pytest.mark.parametrize("name", FAMILIES)
def test_another_model_is_another_effect_whoever_made_it(name: str) -> None:
    here = [method for method, names, _ in METHODS if name in names]
    testing.check_effects([*here, Wanda(0.25), Wanda(0.0)], build(name), batches(name))


@pytest.mark.parametrize(("method", "_names", "wrong"), METHODS)
def test_fields_are_plain_data_and_bad_ones_are_refused(
    method: Method, _names: list[str], wrong: dict[str, Any]
) -> None:
    testing.check_data(method)
    testing.check_refused(method, wrong)


@dataclass(frozen=True)
class _Wrong(Method):
    """What each of these does wrong, the contract says."""

    def apply(self, model: PreTrainedModel, stats: Any) -> Summary:
        return Summary((Removed((1,)),))

    def to_dict(self) -> dict[str, Any]:
        return {"stage": "trainables.wanda:Wanda", "version": 1, "fields": {}}


class _Writes(_Wrong):
    def apply(self, model: PreTrainedModel, stats: Any) -> Summary:
        next(model.parameters()).data.add_(1)
        return super().apply(model, stats)


class _SaysNothing(_Wrong):
    def apply(self, model: PreTrainedModel, stats: Any) -> Summary:
        head = model.lm_head
        put(head, "weight", head.weight * 2)
        return Summary()


@pytest.mark.parametrize(
    ("method", "check", "said"),
    [
        (_Wrong(), testing.check_fork, "changed nothing"),
        (_Writes(), testing.check_fork, "use put"),
        (_Wrong(), testing.check_data, "Wanda"),
        (_SaysNothing(), lambda m, *a: testing.check_effects([m], *a), "one effect, two models"),
    ],
)
def test_the_contract_says_what_is_wrong(method: Method, check: Any, said: str) -> None:
    arguments = (
        [method] if check is testing.check_data else [method, build("llama"), batches("llama")]
    )
    with pytest.raises(AssertionError, match=said):
        check(*arguments)
