"""The selection against numbers worked out by hand, and the published counts."""

import pytest
import torch
from torch import Tensor

from trainables.core.errors import PlanError
from trainables.neurons.select import Rule, edges, removals, thirds


def gone(rule: Rule, *scores: list[float], towers: list[range] | None = None) -> list[list[int]]:
    found = removals([torch.tensor(one) for one in scores], rule, towers or [])
    return [one.nonzero()[:, 0].tolist() for one in found]


LOW, HIGH = [0.1, 0.4, 0.2, 0.3], [0.9, 0.5, 0.8, 0.15]


def test_the_lowest_of_all_layers_go() -> None:
    assert gone(Rule(0.5), LOW, HIGH) == [[0, 2, 3], [3]]
    assert gone(Rule(0.0), LOW, HIGH) == [[], []]
    assert gone(Rule(0.49), LOW, HIGH) == [[0, 2], [3]]  # int(3.92)


def test_equal_scores_go_by_layer_then_number() -> None:
    assert gone(Rule(0.5), [1.0, 1.0], [1.0, 0.5]) == [[0], [1]]


def test_a_layer_gives_no_more_than_its_cap_and_keeps_its_minimum() -> None:
    assert gone(Rule(0.5, most=0.5), LOW, HIGH) == [[0, 2], [1, 3]]
    assert gone(Rule(0.5, least=3), LOW, HIGH) == [[0], [3]]  # passed over; the budget is not met
    assert gone(Rule(0.5, least=9), LOW, HIGH) == [[], []]


def test_edges_get_half_back_and_keep_the_lowest_scored_removals() -> None:
    scores = [[0.3, 0.1, 0.2, 9.0], [0.4, 0.5, 9.0, 9.0], [9.0] * 4]
    assert gone(Rule(0.42), *scores) == [[0, 1, 2], [0, 1], []]
    # 3 * .5 = 1.5, half to even 2: neurons 1 and 2 are the lowest, not 0 and 1
    assert gone(Rule(0.42, edges=1), *scores) == [[1, 2], [0, 1], []]
    # 2 * .25 stays: .5, half to even 0
    assert gone(Rule(0.42, edges=2, edge_share=0.75), *scores) == [[1], [], []]


def test_each_tower_has_edges_and_thirds_of_its_own() -> None:
    assert edges([range(26)], 2) == [0, 1, 24, 25]
    assert edges([range(3), range(3, 6)], 1) == [0, 2, 3, 5]
    assert edges([range(3)], 5) == [0, 1, 2] and edges([range(3)], 0) == []
    assert thirds([range(26)]) == [0] * 9 + [1] * 9 + [2] * 8
    assert thirds([range(3), range(3, 5)]) == [0, 1, 2, 0, 1]


def test_kept_widths_are_multiples() -> None:
    scores = [[float(i) for i in range(10)], [i + 0.5 for i in range(10)]]
    # budget 10; from 10 to 8 costs 1 or 1.5, on to 4 costs 5 or 5.5, which no longer fits
    assert gone(Rule(0.5, round_to=4), *scores) == [[0, 1, 2, 3, 4, 5], [0, 1]]
    assert gone(Rule(0.5, round_to=16), *scores) == [[], []]
    # of 6 gone an edge keeps 3, of which 2 leave a multiple
    assert gone(Rule(0.5, round_to=4, edges=1), *scores) == [[0, 1], []]


def test_all_layers_keep_the_same_number() -> None:
    assert gone(Rule(0.5, uniform=True, edges=2), LOW, HIGH) == [[0, 2], [1, 3]]
    assert gone(Rule(0.3, uniform=True), LOW, HIGH) == [[0], [3]]
    assert gone(Rule(0.5, uniform=True, most=0.25), LOW, HIGH) == [[0], [3]]
    assert gone(Rule(0.5, uniform=True, round_to=3), LOW, HIGH) == [[0], [3]]
    assert gone(Rule(0.5, uniform=True, round_to=8), LOW, HIGH) == [[], []]
    assert gone(Rule(0.4, uniform=True), LOW, HIGH[:2]) == [[0, 2], []]
    with pytest.raises(PlanError, match="layers of 2 to 4 neurons"):
        gone(Rule(0.4, uniform=True, most=0.25), LOW, HIGH[:2])


def walked(scores: list[Tensor], rule: Rule) -> list[set[int]]:
    """The selection as it is told: up through all neurons, passing over full layers."""
    widths = [len(one) for one in scores]
    order = sorted((float(s), i, n) for i, one in enumerate(scores) for n, s in enumerate(one))
    taken: list[set[int]] = [set() for _ in scores]
    budget = int(sum(widths) * rule.ratio)
    for _, layer, number in order:
        if sum(map(len, taken)) == budget:
            break
        full = len(taken[layer]) >= int(widths[layer] * rule.most)
        if not full and widths[layer] - len(taken[layer]) - 1 >= rule.least:
            taken[layer].add(number)
    return taken


@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_walk_through_the_sorted_neurons(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    scores = [torch.randint(0, 40, (n,), generator=draw) / 7 for n in (30, 11, 50, 24)]
    rule = Rule(0.1 + 0.15 * seed, most=0.6, least=8)
    assert [set(one) for one in gone(rule, *[s.tolist() for s in scores])] == walked(scores, rule)


# -- the counts of the specification ---------------------------------------------------------------

LAYERS, WIDTH = 26, 6912


@pytest.mark.parametrize(
    ("ratio", "removed"), [(0.1, 15_897), (0.15, 24_538), (0.2, 33_178), (0.25, 41_818)]
)
def test_published_counts(ratio: float, removed: int) -> None:
    scores = [torch.arange(WIDTH) / WIDTH + layer for layer in range(LAYERS)]  # early ones lowest
    rule = Rule(ratio, most=ratio + 0.2, least=400, edges=2)
    assert sum(int(one.sum()) for one in removals(scores, rule)) == removed
    whole = Rule(ratio, most=ratio + 0.2, least=400)
    assert sum(int(one.sum()) for one in removals(scores, whole)) == int(LAYERS * WIDTH * ratio)
