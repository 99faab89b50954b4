"""The published loops that benchmarks compare with give our losses bit by bit, and do more work."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from benchmarks.depth import Case, Published, Scorer, compare
from benchmarks.depth_search import Watched, by_greedy, by_sampler
from search.samplers.level_switch import LevelSwitchSampler
from trainables.omission import losses
from trainables.omission.evaluator import PrefixEvaluator
from trainables.omission.searches import greedy


def tiny(blocks: int) -> PreTrainedModel:
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=50, num_hidden_layers=blocks, **sizes)).eval()


@pytest.mark.parametrize("name", ["ppl", "kl"])
def test_the_published_loop_gives_the_same_bits(name: str) -> None:
    model = tiny(10)
    make = {"ppl": losses.ppl, "kl": losses.kl}[name]
    text = torch.randint(0, 50, (2, 8))

    def removal(score: Scorer) -> tuple[object, list[float]]:
        found = greedy(10, 2, score)
        return found.order, list(found.losses)

    rows = [{"input_ids": row[None]} for row in text]
    case = Case("greedy", removal, make([{"input_ids": text}]), make(rows))
    found = compare(case, model, repeats=1)
    assert found["bit_identical"]
    assert found["difference"] < 1e-5
    # what no path before has, and what candidates are compared with
    assert found["block_forwards"] == [8 * 9 + 7 * 8, 44 + 28 + (2 if name == "kl" else 0)]
    assert 0 < found["without_head"] < 100 and all(0 < s < 1000 for s in found["head"])
    assert Published(model, case.single)([(3,)]) == PrefixEvaluator(model, case.single)([(3,)])


def test_searches_get_the_same_work() -> None:
    model = tiny(14)
    loss = losses.ppl([{"input_ids": torch.randint(0, 50, (2, 8))}])
    ranking = tuple(range(1, 13))
    greedily = Watched(PrefixEvaluator(model, loss))
    by_greedy(greedily, ranking, 0, 0)
    spent = greedily.evaluator.forwards
    switched = Watched(PrefixEvaluator(model, loss))
    by_sampler(lambda seed: LevelSwitchSampler(seed, drop=6, offspring=16))(
        switched, ranking, spent, 0
    )
    assert len(greedily.best[1]) == len(switched.best[1]) == 6
    assert spent <= switched.evaluator.forwards < 2 * spent
    losses_so_far = [loss for _, loss in switched.curve]
    assert losses_so_far == sorted(losses_so_far, reverse=True)
