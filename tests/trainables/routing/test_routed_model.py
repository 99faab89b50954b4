"""A routed model does for every prompt what the model without that prompt's blocks does."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from tests.support.routing import write_study
from trainables.bench.data.prompts import Question
from trainables.core.errors import PlanError
from trainables.omission import evaluator as prefix
from trainables.omission import losses
from trainables.routing.routed_model import RoutedModel, measure
from trainables.routing.router import Router
from trainables.routing.spec import RouterSpec

PROMPTS = ["Box 1 is", "no", "2 + 2 =", "a much longer prompt than the others", "Box 7 is"]
SETS = [(1, 2), (3,), (2, 4)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    write_study(folder, folder)
    return folder


@pytest.fixture
def routed(made: Path) -> RoutedModel:
    model = AutoModelForCausalLM.from_pretrained(made / "model")
    tokenizer = AutoTokenizer.from_pretrained(made / "model")
    router = Router.fresh(RouterSpec(encoder=str(made / "encoder"), max_length=32), 3)
    with torch.no_grad():
        router.model.classifier.weight.mul_(50)  # so that prompts differ
    found = RoutedModel(model, tokenizer, router, SETS)
    centre = router.scores(PROMPTS).mean(0)
    router.model.classifier.bias.data -= centre
    return found


def test_prompts_need_different_sets(routed: RoutedModel) -> None:
    assert len(set(routed.route(PROMPTS))) > 1


def test_each_prompt_is_written_on_by_its_own_model(routed: RoutedModel) -> None:
    written = routed.generate(PROMPTS, max_new_tokens=5)
    for prompt, index, text in zip(PROMPTS, routed.route(PROMPTS), written, strict=True):
        model = prefix.rebuild(routed.model, SETS[index])
        batch = routed.tokenizer(prompt, return_tensors="pt")
        ids = model.generate(**batch, max_new_tokens=5, do_sample=False, pad_token_id=0)
        tail = ids[0, batch["input_ids"].shape[1] :]
        assert text == routed.tokenizer.decode(tail, skip_special_tokens=True)
    assert routed.generate([]) == []


def test_what_the_caller_asks_for_is_done(routed: RoutedModel) -> None:
    """Length and end are the config's where it names them, and the argument's before that."""
    free = routed.generate(PROMPTS[:1], max_new_tokens=12)[0]
    assert routed.generate(PROMPTS[:1], config=greedy(max_new_tokens=12)) == [free]
    assert free.startswith(routed.generate(PROMPTS[:1], 3, greedy(max_new_tokens=12))[0])
    asked = routed._settings(None, greedy(max_new_tokens=5, eos_token_id=7, pad_token_id=9))
    assert (asked.max_new_tokens, asked.eos_token_id, asked.pad_token_id) == (5, 7, 9)
    assert routed._settings(None, greedy(max_length=9)).max_new_tokens is None
    assert routed._settings(None, None).max_new_tokens == 64
    assert routed._settings(None, None).eos_token_id == routed.model.generation_config.eos_token_id
    [end] = routed.tokenizer(free[0])["input_ids"]
    cut = routed.generate(PROMPTS[:1], config=greedy(max_new_tokens=12, eos_token_id=end))[0]
    assert len(cut) < len(free) and free.startswith(cut)
    with pytest.raises(PlanError, match="num_return_sequences"):
        routed.generate(PROMPTS, config=GenerationConfig(do_sample=True, num_return_sequences=2))


def greedy(**settings: int) -> GenerationConfig:
    return GenerationConfig(do_sample=False, **settings)


def test_an_empty_prompt_is_written_on(routed: RoutedModel) -> None:
    assert len(routed.tokenizer("")["input_ids"]) == 0
    [alone] = routed.generate([""], max_new_tokens=4)
    assert routed.generate(["", *PROMPTS], max_new_tokens=4)[0] == alone


def test_a_length_counts_each_prompts_own_tokens(routed: RoutedModel) -> None:
    """Whatever it is padded to, and in the caller's order; of none left nothing is written."""
    config = greedy(max_length=24, eos_token_id=-1)
    replies = routed.answer(PROMPTS, config=config)
    sizes = [len(routed.tokenizer(prompt)["input_ids"]) for prompt in PROMPTS]
    assert [reply.tokens for reply in replies] == [max(0, 24 - size) for size in sizes]
    assert [reply.set for reply in replies] == routed.route(PROMPTS)
    alone = [routed.answer([prompt], config=config)[0].text for prompt in PROMPTS]
    assert [reply.text for reply in replies] == alone
    assert all(reply.speed > 0 for reply in replies if reply.tokens)


def test_a_prompt_is_written_on_piece_by_piece(routed: RoutedModel) -> None:
    for prompt in PROMPTS:
        running, pieces = routed.stream(prompt, 9), list[str]()
        with pytest.raises(StopIteration) as end:
            while True:
                pieces.append(next(running))
        [wanted] = routed.answer([prompt], 9)
        assert "".join(pieces) == end.value.value.text == wanted.text
        assert (end.value.value.set, end.value.value.tokens) == (wanted.set, wanted.tokens)
    assert list(routed.stream(PROMPTS[0], config=greedy(max_length=1))) == []
    with pytest.raises(ValueError, match="beam"):
        list(routed.stream(PROMPTS[0], config=greedy(max_new_tokens=2, num_beams=2)))


def test_a_conversation_goes_through_the_chat_template(routed: RoutedModel) -> None:
    turns = [{"role": "user", "content": PROMPTS[0]}]
    with pytest.raises(PlanError, match="no chat template"):
        routed.generate([turns])
    routed.tokenizer.chat_template = "{% for turn in messages %}<{{ turn.content }}>{% endfor %}"
    assert routed.route([turns, PROMPTS[0]]) == routed.route([PROMPTS[0]] * 2)
    assert routed.generate([turns], max_new_tokens=4) == [written(routed, f"<{PROMPTS[0]}>")]


def written(routed: RoutedModel, text: str) -> str:
    """What the model of the first prompt's set writes after a text."""
    model = prefix.rebuild(routed.model, SETS[routed.route(PROMPTS[:1])[0]])
    batch = routed.tokenizer(text, return_tensors="pt")
    ids = model.generate(**batch, max_new_tokens=4, do_sample=False, pad_token_id=0)
    tail = ids[0, batch["input_ids"].shape[1] :]
    found: str = routed.tokenizer.decode(tail, skip_special_tokens=True)
    return found


def test_what_is_kept_of_keys_and_values_changes_nothing(routed: RoutedModel) -> None:
    cached = routed.generate(PROMPTS, max_new_tokens=6)
    assert routed.generate(PROMPTS, config=greedy(max_new_tokens=6, use_cache=False)) == cached


def test_all_sets_together_hold_one_set_of_weights(routed: RoutedModel) -> None:
    routed.generate(PROMPTS, max_new_tokens=2)
    models = [routed.model, *(routed.pruned(index) for index in range(len(SETS)))]
    places = {one.data_ptr(): one.nbytes for model in models for one in model.parameters()}
    assert sum(places.values()) == sum(
        {p.data_ptr(): p.nbytes for p in models[0].parameters()}.values()
    )


def test_questions_are_scored_by_their_own_model(routed: RoutedModel) -> None:
    questions = [Question(prompt, (" red", " blue", " x"), 0) for prompt in PROMPTS]
    found = routed.log_likelihoods(questions)
    for question, index, means in zip(questions, routed.route(PROMPTS), found, strict=True):
        loss = losses.answers("tld", [question], routed.tokenizer)
        [wanted] = prefix.PrefixEvaluator(routed.model, loss).means([SETS[index]])
        assert torch.allclose(means, wanted, atol=1e-5)


def test_pruned_models_share_all_weights(routed: RoutedModel) -> None:
    pruned = routed.pruned(1)
    assert len(pruned.model.layers) == 5
    mine = {p.data_ptr() for p in pruned.parameters()}
    assert mine <= {p.data_ptr() for p in routed.model.parameters()}
    assert routed.pruned(1) is pruned


def test_the_saved_folder_loads_and_does_the_same(routed: RoutedModel, tmp_path: Path) -> None:
    routed.save(tmp_path / "out")
    again = RoutedModel.load(tmp_path / "out")
    assert again.sets == SETS
    assert again.generate(PROMPTS, max_new_tokens=4) == routed.generate(PROMPTS, max_new_tokens=4)
    again = RoutedModel.from_pretrained(tmp_path / "out", dtype="bfloat16")
    assert again.model.dtype == torch.bfloat16 and again.router.model.dtype == torch.float32
    assert len(again.generate(PROMPTS, max_new_tokens=4)) == len(PROMPTS)
    with pytest.raises(PlanError, match="folder of a routed model"):
        RoutedModel.load(tmp_path)


def test_a_router_for_another_number_of_sets_is_refused(routed: RoutedModel) -> None:
    with pytest.raises(PlanError, match="3 outputs for 2 sets"):
        RoutedModel(routed.model, routed.tokenizer, routed.router, SETS[:2])


def test_what_is_measured_is_complete(routed: RoutedModel) -> None:
    found = measure(routed, PROMPTS[:2], new_tokens=3)
    assert found["dense_bytes"] > found["pruned_bytes"] > 0
    assert all(found[key] > 0 for key in ("router", "dense_prefill", "pruned_generation"))
