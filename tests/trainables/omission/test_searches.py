"""Searches over omission sets, on scores made by hand and on a tiny model."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from trainables.core.errors import PlanError
from trainables.omission import importance
from trainables.omission import searches as depth
from trainables.omission.importance import BlockInfluence
from trainables.omission.searches import Omit

COSTS = [9.0, 3.0, 1.0, 1.0, 5.0, 2.0, 9.0]


def cost(sets: Sequence[Omit], bound: float = math.inf) -> list[float]:
    """Each unit has its price; units 2 and 3 together cost more."""
    return [sum(COSTS[unit] for unit in omit) + 4 * ({2, 3} <= set(omit)) for omit in sets]


@pytest.fixture
def model() -> PreTrainedModel:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=50, num_hidden_layers=4, **sizes)).eval()


def test_greedy_takes_the_cheapest_and_the_first_of_equals() -> None:
    found = depth.greedy(7, 3, cost)
    assert found.order == (2, 5, 1)
    assert found.losses == (1.0, 3.0, 6.0)
    assert found.at(2) == depth.greedy(7, 2, cost).order


def test_greedy_keeps_the_first_and_the_last_and_what_is_fixed() -> None:
    def reward(sets: Sequence[Omit]) -> list[float]:
        return [-float(sum(omit)) for omit in sets]

    assert depth.greedy(5, 3, reward).order == (3, 2, 1)
    assert depth.greedy(5, 2, reward, fixed={3}).order == (2, 1)
    with pytest.raises(PlanError, match="only 3 of 4"):
        depth.greedy(5, 4, reward)


def test_infinite_losses_never_win() -> None:
    assert depth.argmin([math.nan, math.inf, 2.0, 1.0]) == 3
    with pytest.raises(PlanError, match="bfloat16"):
        depth.argmin([math.nan, math.inf])


def test_influence_is_small_for_a_block_that_does_nothing(model: PreTrainedModel) -> None:
    still = model.model.layers[2]
    for linear in (still.self_attn.o_proj, still.mlp.down_proj):
        torch.nn.init.zeros_(linear.weight)
    batch = {"input_ids": torch.randint(0, 50, (2, 8)), "attention_mask": torch.ones(2, 8).long()}
    batch["attention_mask"][0, 5:] = 0
    found = BlockInfluence.calibrate(model, [batch, batch])["influence"].tolist()
    assert found[2] == pytest.approx(0, abs=1e-6)
    assert depth.lowest(found, 2)[0] == 2
    assert depth.lowest(found, 1, fixed={2}) != (2,)
    hidden = importance.states(model, batch)
    wanted = 1 - torch.cosine_similarity(hidden[1], hidden[2], dim=-1).mean().item()
    assert found[1] == pytest.approx(wanted, abs=1e-6)
    assert len(hidden[0]) == 13


def test_windows_measure_the_angle_across_a_run_of_blocks(model: PreTrainedModel) -> None:
    batch = {"input_ids": torch.randint(0, 50, (2, 8))}
    angles = importance.windows(model, [batch], 2, last=False)
    hidden = importance.states(model, batch)
    cosine = torch.cosine_similarity(hidden[1], hidden[3], dim=-1)
    assert angles[1] == pytest.approx(cosine.acos().mean().item() / math.pi, rel=1e-5)
    assert len(angles) == 3
    assert depth.window([0.3, 0.1, 0.2], 2) == (1, 2)
    with pytest.raises(PlanError, match="window of 5"):
        importance.windows(model, [batch], 5)


def test_a_switch_keeps_the_number_of_omitted_units() -> None:
    rng = Random(0)
    for count in (1, 2, 3):
        child = depth.switch((1, 4, 5), [range(1, 7)], rng, count)
        assert len(child) == 3
        assert len(set(child) - {1, 4, 5}) == count
    assert depth.switch((1,), [[1]], rng, 3) == (1,)


def test_a_switch_stays_within_a_kind_of_unit() -> None:
    rng, groups = Random(0), [range(6), range(6, 12)]
    found = [depth.switch((1, 4, 7, 9), groups, rng, depth.switches(rng)) for _ in range(2000)]
    assert {sum(unit < 6 for unit in child) for child in found} == {2}
    changed = [len(set(child) - {1, 4, 7, 9}) for child in found]
    assert set(changed) == {1, 2, 3}
    # two throws of 1 to 3, the lower one: 5/9, 3/9, 1/9
    assert sum(changed) / len(changed) == pytest.approx(14 / 9, abs=0.05)


def test_a_brood_repeats_nobody() -> None:
    found = depth.brood((1, 2), [range(4)], Random(0), 9)
    assert len(found) == len(set(found)) == 5 and (1, 2) not in found


def test_windows_look_at_the_last_token_of_each_text_as_published(model: PreTrainedModel) -> None:
    batch = {"input_ids": torch.randint(0, 50, (2, 8)), "attention_mask": torch.ones(2, 8)}
    batch["attention_mask"] = batch["attention_mask"].long()
    batch["attention_mask"][0, 5:] = 0
    alone = [{"input_ids": batch["input_ids"][:1, :5]}, {"input_ids": batch["input_ids"][1:]}]
    ends = [importance.states(model, one) for one in alone]
    angles = [torch.cosine_similarity(e[0][-1], e[2][-1], dim=-1).acos() / math.pi for e in ends]
    found = importance.windows(model, [batch], 2)
    assert found[0] == pytest.approx(float(sum(angles)) / 2, rel=1e-4)


def test_evolution_never_gets_worse_and_finds_the_best_of_a_small_space() -> None:
    trail = list(depth.evolve((1, 4), [range(1, 6)], cost, generations=20, offspring=4))
    losses = [loss for _, loss in trail]
    assert losses == sorted(losses, reverse=True)
    assert trail[-1][1] == min(cost(list(itertools.combinations(range(1, 6), 2)))) == 3.0
    assert trail == list(depth.evolve((1, 4), [range(1, 6)], cost, generations=20, offspring=4))


def test_evolution_ends_when_told() -> None:
    spent = iter([False, True])
    search = depth.evolve(
        (1, 4), [range(1, 6)], cost, generations=9, offspring=4, until=lambda: next(spent)
    )
    assert len(list(search)) == 2


def test_diverse_sets_are_different_and_far_apart() -> None:
    orders = {"a": (1, 2, 3), "b": (3, 2, 1), "c": (1, 2, 4), "d": (5, 6, 7)}
    assert depth.diverse(orders, 2) == {"a": (1, 2, 3), "d": (5, 6, 7)}
    assert list(depth.diverse(orders, 9)) == ["a", "d", "c"]


def test_sets_are_written_and_read_in_the_published_format(tmp_path: Path) -> None:
    file = tmp_path / "sets.csv"
    depth.write_sets(file, {"mathqa": (9, 21, 22), "piqa": (3, 1, 2)})
    assert file.read_text() == 'Set,idx,\n"[9, 21, 22]",0,mathqa\n"[3, 1, 2]",1,piqa\n'
    assert depth.read_sets(file) == {"mathqa": (9, 21, 22), "piqa": (3, 1, 2)}


def test_a_file_without_sets_is_refused_with_its_row(tmp_path: Path) -> None:
    file = tmp_path / "sets.csv"
    file.write_text("Set,idx,\nnine,0,mathqa\n")
    with pytest.raises(PlanError, match="row 1"):
        depth.read_sets(file)
