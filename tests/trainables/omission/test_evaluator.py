"""Shared prefixes change nothing but the work: every loss equals the naive twin's, bit by bit."""

import itertools
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
)

from trainables.bench.data.prompts import Question
from trainables.bench.data.tokenize import question_ids
from trainables.core.errors import PlanError
from trainables.omission import evaluator as prefix
from trainables.omission import losses
from trainables.omission.evaluator import PrefixEvaluator, alone
from trainables.omission.loss_log import Memo
from trainables.omission.paths import Kept, Recent, common, path
from trainables.omission.searches import PUBLISHED, Beating, Omit, evolve, greedy


def naive_forwards(paths: Iterable[Kept]) -> int:
    """Block-forwards when every candidate runs by itself."""
    return sum(map(len, paths))


def shared_forwards(paths: Iterable[Kept]) -> int:
    """Block-forwards when common prefixes run once: the nodes of the trie."""
    return len({steps[:end] for steps in paths for end in range(1, len(steps) + 1)})


class Words:
    """A tokenizer: one token per word."""

    bos_token_id = eos_token_id = None

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [1 + sum(map(ord, word)) % 90 for word in text.split()]}


ITEMS = [
    Question("what is it that you see", ("one two", "three", "four five six"), 1),
    Question("who goes there", ("me", "you and us"), 0),
    Question("it is a long and winding road", ("to go", "no way at all"), 1),
]
SMALL: dict[str, Any] = {"vocab_size": 100, "hidden_size": 32, "num_attention_heads": 2}
SETS = [(1,), (2,), (1, 2), (), (0, 3), (3,), (1,)]


def llama() -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**SMALL, intermediate_size=64, num_hidden_layers=4))


def gpt2() -> PreTrainedModel:
    ends: dict[str, Any] = {"bos_token_id": 0, "eos_token_id": 0}
    return GPT2LMHeadModel(GPT2Config(vocab_size=100, n_embd=32, n_layer=4, n_head=2, **ends))


def opt() -> PreTrainedModel:
    return OPTForCausalLM(OPTConfig(**SMALL, ffn_dim=64, num_hidden_layers=4))


def gemma() -> PreTrainedModel:
    sizes: dict[str, Any] = {"intermediate_size": 64, "num_hidden_layers": 4, "head_dim": 16}
    return Gemma3ForCausalLM(
        Gemma3TextConfig(**SMALL, **sizes, num_key_value_heads=1, sliding_window=4)
    )


@pytest.fixture(params=[llama, gpt2, opt, gemma])
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    torch.manual_seed(0)
    return request.param().eval()  # type: ignore[no-any-return]


@pytest.fixture
def small() -> PreTrainedModel:
    torch.manual_seed(0)
    return llama().eval()


def batches() -> list[dict[str, torch.Tensor]]:
    torch.manual_seed(1)
    plain = {"input_ids": torch.randint(1, 100, (2, 9))}
    padded = {"input_ids": torch.randint(1, 100, (2, 7)), "attention_mask": torch.ones(2, 7).long()}
    padded["attention_mask"][1, 4:] = 0
    return [plain, padded]


def make(name: str, packed: bool = False) -> losses.Loss:
    if name in ("ppl", "kl"):
        return {"ppl": losses.ppl, "kl": losses.kl}[name](batches())
    return losses.answers(name, ITEMS, Words(), packed=packed, batch_size=2)


@pytest.mark.parametrize("name", ["ppl", "kl", "tl", "tld"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_loss_equals_the_naive_twin_bit_by_bit(
    model: PreTrainedModel, name: str, dtype: torch.dtype
) -> None:
    model, loss = model.to(dtype), make(name)
    assert PrefixEvaluator(model, loss)(SETS) == alone(model, loss, SETS)


@pytest.mark.parametrize("unit", ["attention", "ffn", "both"])
def test_parts_of_blocks_equal_zero_output_weights(model: PreTrainedModel, unit: Any) -> None:
    loss = make("ppl")
    if isinstance(model, OPTForCausalLM):
        with pytest.raises(PlanError, match="whole blocks"):
            PrefixEvaluator(model, loss, unit=unit)
        return
    found = PrefixEvaluator(model, loss, unit=unit)(SETS)
    assert found == alone(model, loss, SETS, unit)
    assert len(set(found)) == len(set(SETS))


def test_both_parts_of_a_block_are_the_block(small: PreTrainedModel) -> None:
    loss = make("ppl")
    halves = PrefixEvaluator(small, loss, unit="both")([(2, 3), (2, 3, 6, 7)])
    assert halves == PrefixEvaluator(small, loss)([(1,), (1, 3)])


def test_perplexity_is_what_the_model_itself_computes(small: PreTrainedModel) -> None:
    tokens = batches()[0]["input_ids"]
    rebuilt = prefix.rebuild(small, (1, 2))
    wanted = rebuilt(input_ids=tokens, labels=tokens).loss.item()
    loss = losses.ppl([{"input_ids": tokens}])
    assert PrefixEvaluator(small, loss)([(1, 2)])[0] == pytest.approx(wanted, rel=1e-6)


def mean_log_likelihoods(model: PreTrainedModel, item: Question) -> list[float]:
    """The published loop: one choice at a time, all logits."""
    question, choices = question_ids(Words(), item, 99)
    found = []
    for choice in choices:
        tokens = torch.tensor([question + choice])
        logits = torch.log_softmax(model(input_ids=tokens).logits[0].float(), -1)
        picked = [logits[len(question) - 1 + i, token] for i, token in enumerate(choice)]
        found.append(float(torch.stack(picked).mean()))
    return found


@torch.no_grad()
def test_task_losses_are_their_definitions(small: PreTrainedModel) -> None:
    rebuilt = prefix.rebuild(small, (2,))
    lls = [mean_log_likelihoods(rebuilt, item) for item in ITEMS]
    right = [ll[item.answer] for ll, item in zip(lls, ITEMS, strict=True)]
    tld = [len(ll) * r - sum(ll) for ll, r in zip(lls, right, strict=True)]
    assert PrefixEvaluator(small, make("tl"))([(2,)])[0] == pytest.approx(-sum(right), rel=1e-6)
    assert PrefixEvaluator(small, make("tld"))([(2,)])[0] == pytest.approx(-sum(tld), abs=1e-5)


def test_divergence_from_the_dense_model_itself_is_nil(small: PreTrainedModel) -> None:
    nil, some = PrefixEvaluator(small, make("kl"))([(), (1,)])
    assert nil == 0
    assert some > 0


@pytest.mark.parametrize("build", [llama, gpt2])
def test_packed_choices_give_the_same_losses(build: Any) -> None:
    torch.manual_seed(0)
    model = build().eval()
    assert prefix.can_pack(model)
    for name in ("tl", "tld"):
        packed = PrefixEvaluator(model, make(name, packed=True))(SETS)
        assert packed == pytest.approx(PrefixEvaluator(model, make(name))(SETS), abs=1e-5)


def test_packed_choices_do_not_see_each_other_in_eager_attention_either() -> None:
    torch.manual_seed(0)
    model = LlamaForCausalLM._from_config(
        LlamaConfig(**SMALL, intermediate_size=64, num_hidden_layers=2),
        attn_implementation="eager",
    ).eval()
    packed, split = (PrefixEvaluator(model, make("tld", packed=p))([()]) for p in (True, False))
    assert packed == pytest.approx(split, abs=1e-5)


def test_a_model_with_a_sliding_window_is_not_packed() -> None:
    assert not prefix.can_pack(gemma())


def test_leaving_out_a_block_changes_the_loss_and_not_the_model(model: PreTrainedModel) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = PrefixEvaluator(model, make("ppl"))([(), (0,), (1,), (2,), (3,)])
    assert len(set(found)) == 5
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_a_block_that_is_not_there_is_named(small: PreTrainedModel) -> None:
    with pytest.raises(PlanError, match=r"no block \[7\]: the model has 0 to 3"):
        PrefixEvaluator(small, make("ppl"))([(7,)])


def paths_of_greedy(blocks: int, budget: int) -> list[tuple[int, int]]:
    """(naive, shared) block-forwards of every step, with a score that removes from the end."""
    counts = []

    def score(sets: Sequence[tuple[int, ...]]) -> list[float]:
        paths = [path(omit, blocks) for omit in sets]
        counts.append((naive_forwards(paths), shared_forwards(paths)))
        return [-float(omit[-1]) for omit in sets]

    greedy(blocks, budget, score)
    return counts


@pytest.mark.parametrize(
    ("blocks", "budget", "naive", "shared"),
    [(32, 7, 5_320, 2_849), (32, 8, 5_872, 3_148), (80, 16, 80_992, 41_624)],
)
def test_block_forwards_of_greedy(blocks: int, budget: int, naive: int, shared: int) -> None:
    counts = paths_of_greedy(blocks, budget)
    assert [sum(column) for column in zip(*counts, strict=True)] == [naive, shared]


def test_block_forwards_of_the_published_sets() -> None:
    paths = [path(omit, 32) for omit in PUBLISHED]
    assert (naive_forwards(paths), shared_forwards(paths)) == (250, 163)


@pytest.mark.parametrize(("size", "naive", "shared"), [(2, 14_880, 5_455), (3, 143_840, 40_919)])
def test_block_forwards_of_exhaustive_search(size: int, naive: int, shared: int) -> None:
    paths = [path(omit, 32) for omit in itertools.combinations(range(32), size)]
    assert (naive_forwards(paths), shared_forwards(paths)) == (naive, shared)


def test_the_evaluator_runs_as_many_blocks_as_the_trie_has(model: PreTrainedModel) -> None:
    evaluator = PrefixEvaluator(model, make("ppl"))
    sets = list(itertools.combinations(range(4), 2))
    evaluator(sets)
    assert evaluator.forwards == shared_forwards(path(omit, 4) for omit in sets)


def test_the_next_sets_begin_where_they_leave_earlier_ones(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = [[(1,), (2,)], [(1, 2), (1, 3)], [(2, 3), ()]]
    evaluator = PrefixEvaluator(model, make("ppl"))
    found = [evaluator(sets) for sets in calls]
    assert evaluator.forwards == shared_forwards(path(omit, 4) for sets in calls for omit in sets)
    monkeypatch.setattr(prefix, "ROOM", 0)
    forgetful = PrefixEvaluator(model, make("ppl"))
    assert [forgetful(sets) for sets in calls] == found
    each = [shared_forwards(path(omit, 4) for omit in sets) for sets in calls]
    assert forgetful.forwards == sum(each) > evaluator.forwards


@pytest.mark.parametrize("name", ["ppl", "kl", "tl", "tld"])
def test_who_is_above_a_bound_is_left_as_soon_as_that_is_sure(
    model: PreTrainedModel, name: str
) -> None:
    whole = PrefixEvaluator(model, make(name))
    wanted = whole(SETS)
    for bound in sorted(wanted):
        some = PrefixEvaluator(model, make(name))
        found = some(SETS, bound)
        assert all(
            mine == loss or (mine == math.inf and loss > bound)
            for mine, loss in zip(found, wanted, strict=True)
        )
        assert some.forwards <= whole.forwards
    least = PrefixEvaluator(model, make(name))
    found = least(SETS, min(wanted) / 100 if min(wanted) > 0 else -math.inf)
    adds_up = name != "tld"  # whose wrong answers take away
    assert (least.forwards < whole.forwards) is adds_up and (found != wanted) is adds_up


def test_evolution_takes_the_same_way_if_only_better_sets_are_scored_whole(
    small: PreTrainedModel, tmp_path: Path
) -> None:
    loss = losses.kl(batches() * 2)
    whole = PrefixEvaluator(small, loss, unit="both")
    memo = Memo(tmp_path, "kl")
    some = PrefixEvaluator(small, loss, unit="both", memo=memo)

    def searched(score: Beating) -> list[tuple[Omit, float]]:
        groups = [range(8)]
        return list(evolve((0, 1, 6), groups, score, generations=4, offspring=6, seed=3))

    assert searched(some) == searched(lambda sets, _: whole(sets))
    assert some.forwards < whole.forwards
    assert memo.known and math.inf not in memo.known.values()


def test_states_are_kept_within_their_room_those_used_last() -> None:
    steps = path((), 4)
    recent = Recent(2 * 40)
    for length in range(3):
        recent.keep((0, steps[:length]), torch.full((10,), float(length)))
        assert recent.find((0, ())) is not None
    assert recent.find((0, steps[:1])) is None and recent.held == 80
    recent.keep((1, steps), torch.zeros(21))
    assert recent.find((1, steps)) is None and recent.find((0, steps[:2])) is not None


def test_the_steps_that_paths_have_in_common() -> None:
    paths = [path(omit, 5) for omit in ((3,), (2, 4), (3, 4))]
    assert common(paths) == paths[0][:2]
    assert common(paths[:1]) == paths[0] and common([paths[2], paths[0]]) == paths[2]
    assert common([(), *paths]) == ()


def test_the_memo_makes_repeats_free_and_survives_a_torn_line(
    small: PreTrainedModel, tmp_path: Path
) -> None:
    loss = make("tl")
    first = PrefixEvaluator(small, loss, memo=Memo(tmp_path, loss.fingerprint()))
    wanted = first(SETS)
    [file] = tmp_path.iterdir()
    file.write_text(file.read_text() + '{"omit": [0, 1], "lo')
    memo = Memo(tmp_path, loss.fingerprint())
    again = PrefixEvaluator(small, loss, memo=memo)
    assert again([(2, 1), *SETS]) == [wanted[2], *wanted]
    assert again.forwards == 0
    memo.add({(0, 1): 0.5})
    assert Memo(tmp_path, loss.fingerprint()).known == {**memo.known, (0, 1): 0.5}


def test_fingerprints_tell_calibrations_and_losses_apart() -> None:
    made = [make("ppl"), make("kl"), make("tl"), make("tld"), make("tld", packed=True)]
    made.append(losses.answers("tl", ITEMS[:2], Words()))
    assert len({loss.fingerprint() for loss in made}) == len(made)
    assert make("ppl").fingerprint() == made[0].fingerprint()
