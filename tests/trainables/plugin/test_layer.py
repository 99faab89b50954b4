"""One token through a decoder layer: the closed form, the donor's own forward, and what is read."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, PreTrainedModel

from tests.support.families import COMMON, GROUPED, build
from trainables.bench.metrics.cost import count_parameters
from trainables.bench.models.structure import blocks
from trainables.core.errors import ModelError, PlanError, UserError
from trainables.plugin import donor as donor_of
from trainables.plugin.donor import Donor, layers_of
from trainables.plugin.layer import Plug, attention_name, one_token, value_of

GPT2 = {"vocab_size": 97, "n_embd": 32, "n_layer": 4, "n_head": 4, "n_inner": 48}
GPT2 |= {"bos_token_id": 1, "eos_token_id": 2}
SLIDING = GROUPED | {"head_dim": 8, "sliding_window": 4}
DONORS: dict[str, dict[str, Any]] = {
    "llama": GROUPED,
    "qwen2": GROUPED,
    "qwen3": GROUPED | {"head_dim": 8},
    "gemma3_text": SLIDING | {"layer_types": ["sliding_attention", "full_attention"] * 2},
    "gpt2": GPT2,
    "gemma2": SLIDING,
    "mistral": GROUPED,
    "phi3": GROUPED,
    "opt": {**COMMON, "ffn_dim": 48, "word_embed_proj_dim": 32},
    "gpt_neox": COMMON,
    "smollm3": GROUPED,
    "olmo2": GROUPED,
}


def made(name: str) -> PreTrainedModel:
    torch.manual_seed(0)
    model = AutoModel.from_config(AutoConfig.for_model(name, **DONORS[name])).eval()
    for parameter in model.parameters():  # norms and biases that do something
        parameter.data += torch.randn_like(parameter) * 0.3
    return model


def of(model: PreTrainedModel, number: int, hidden: Tensor) -> Tensor:
    """What the model itself makes of one token in a layer."""
    kinds = getattr(model.config, "layer_types", None)
    given = {}
    if hasattr(model, "rotary_emb"):
        kind = [kinds[number]] if model.config.model_type == "gemma3_text" else []
        given["position_embeddings"] = model.rotary_emb(hidden, torch.zeros(1, 1).long(), *kind)
    out = blocks(model)[number](hidden, **given)
    return out if isinstance(out, Tensor) else out[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", DONORS)
def test_the_closed_form_has_no_error(name: str, dtype: torch.dtype) -> None:
    model = made(name).to(dtype)
    hidden = torch.randn(5, 1, 32).to(dtype)
    with torch.no_grad():
        for number, layer in enumerate(blocks(model)):
            wanted = of(model, number, hidden)
            assert torch.equal(one_token(layer, hidden), wanted)
            assert not torch.equal(wanted, hidden)


def by_hand(layer: Any, x: Tensor, groups: int) -> Tensor:
    """h + MLP(norm2(h)), h = x + W_o repeat(W_v norm1(x)), written down once more."""
    attention = layer.self_attn
    value = attention.v_proj(layer.input_layernorm(x)).view(*x.shape[:2], -1, 8)
    seen = attention.o_proj(value.repeat_interleave(groups, 2).reshape(*x.shape[:2], -1))
    if hasattr(layer, "pre_feedforward_layernorm"):  # gemma
        h = x + layer.post_attention_layernorm(seen)
        inner = layer.mlp(layer.pre_feedforward_layernorm(h))
        return h + layer.post_feedforward_layernorm(inner)
    h = x + seen
    return h + layer.mlp(layer.post_attention_layernorm(h))


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "gemma3_text"])
def test_the_formula_of_the_source_is_the_layer(name: str) -> None:
    model, hidden = made(name), torch.randn(3, 1, 32)
    with torch.no_grad():
        assert torch.equal(by_hand(blocks(model)[1], hidden, 2), of(model, 1, hidden))


def test_gpt2s_formula_is_the_layer() -> None:
    model, x = made("gpt2"), torch.randn(3, 1, 32)
    layer: Any = blocks(model)[2]
    with torch.no_grad():
        h = x + layer.attn.c_proj(layer.attn.c_attn(layer.ln_1(x))[..., 64:])
        assert torch.equal(h + layer.mlp(layer.ln_2(h)), of(model, 2, x))


def plug(name: str, **given: Any) -> Plug:
    model = made(name)
    found = Plug(24, model.config, [1], **given)
    found.layers[0].load_state_dict(blocks(model)[1].state_dict())
    found.settle()
    return found.eval()


@pytest.mark.parametrize("name", DONORS)
def test_a_plug_takes_the_short_way_and_says_the_same(name: str) -> None:
    found, hidden = plug(name), torch.randn(4, 1, 24)
    assert found.short
    with torch.no_grad():
        short = found(hidden)
        found.short = False
        assert torch.equal(found(hidden), short)


def test_an_attention_that_does_more_runs_as_it_is() -> None:
    """A gate on what attention gives would be lost on the short way."""
    found = plug("llama")
    attention = found.layers[0].self_attn
    inner = attention.forward

    def gated(*args: Any, **kwargs: Any) -> Any:
        out, weights = inner(*args, **kwargs)
        return out * 0.5, weights

    attention.forward = gated
    found.settle()
    assert not found.short
    found(torch.randn(2, 1, 24))


@pytest.mark.parametrize("name", DONORS)
def test_many_tokens_see_each_other_and_no_padding(name: str) -> None:
    found = plug(name, many=True)
    hidden, mask = torch.randn(2, 5, 24), torch.tensor([[1] * 5, [1, 1, 1, 0, 0]])
    with torch.no_grad():
        both, other = found(hidden, mask), hidden.clone()
        assert torch.allclose(both[1:, :3], found(hidden[1:, :3], mask[1:, :3]), atol=1e-4)
        other[0, 4] += 1
        assert not torch.allclose(found(other, mask)[0, 0], both[0, 0], atol=1e-4), "behind it too"


def test_only_what_may_learn_gets_gradients() -> None:
    found = plug("qwen2")
    found(torch.randn(3, 1, 24)).sum().backward()
    assert {n for n, p in found.named_parameters() if p.grad is not None} == {
        "into.weight",
        "out.weight",
    }
    learning = plug("qwen2", frozen=False)
    learning(torch.randn(3, 1, 24)).sum().backward()
    names = {n for n, p in learning.named_parameters() if p.grad is not None}
    assert "layers.0.mlp.down_proj.weight" in names
    assert not any("q_proj" in name or "k_proj" in name for name in names), "they decide nothing"


# -- the parameters of the source, from configurations --------------------------------------------

QWEN2 = {
    "vocab_size": 151936,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}


def test_the_sources_parameter_counts() -> None:
    from transformers import AutoModelForCausalLM

    from trainables.plugin.model import classifier_class

    config = AutoConfig.for_model("qwen2", **QWEN2)
    with torch.device("meta"):
        whole = AutoModelForCausalLM.from_config(config)
        bert = AutoModelForSequenceClassification.from_config(AutoConfig.for_model("bert"))
        found = Plug(768, config, [23])
        assert count_parameters(whole) == 494_032_768
        assert count_parameters(layers_of(config, [23])[0]) == 14_912_384
        ends = count_parameters(found.into) + count_parameters(found.out)
        assert ends == 1_376_256
        setup = bert.config
        setup.plug = {
            **{"base": "BertModel", "donor": "x", "licence": "x", "layers": [23]},
            **{"pooling": "first", "pooler": True, "dropout": 0.2, "frozen": True},
            **{"random": False, "config": json.loads(config.to_json_string(use_diff=False))},
        }
        model = classifier_class(type(bert.base_model))(setup)
    assert count_parameters(model) == 126_363_010
    assert count_parameters(model, learning=True) == 111_450_626


# -- what is read ----------------------------------------------------------------------------------


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, int]]]:
    """(name, bytes) of every tensor that is read."""
    seen: list[tuple[str, int]] = []

    class Counting:
        def __init__(self, path: Path, framework: str) -> None:
            self.inner = safe_open(path, framework=framework)

        def __enter__(self) -> "Counting":
            self.file = self.inner.__enter__()
            return self

        def __exit__(self, *error: Any) -> None:
            self.inner.__exit__(*error)

        def keys(self) -> list[str]:
            return list(self.file.keys())

        def get_tensor(self, name: str) -> Tensor:
            found: Tensor = self.file.get_tensor(name)
            seen.append((name, found.numel() * found.element_size()))
            return found

    monkeypatch.setattr(donor_of, "safe_open", Counting)
    yield seen


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "gpt2"])
@pytest.mark.parametrize("shards", [False, True])
def test_only_one_layer_is_ever_read(
    name: str, shards: bool, tmp_path: Path, opened: list[tuple[str, int]]
) -> None:
    model = build(name)
    model.save_pretrained(tmp_path, max_shard_size="20KB" if shards else "1GB")
    assert (tmp_path / "model.safetensors.index.json").exists() is shards
    found = Donor(str(tmp_path)).give([-1])
    layer = blocks(model)[3]
    wanted = layer.state_dict()
    assert found.numbers == (3,)
    assert {n: v.tolist() for n, v in found.tensors[0].items()} == {
        n: v.tolist() for n, v in wanted.items()
    }
    assert all(".3." in key for key, _ in opened) and len(opened) == len(wanted)
    assert sum(size for _, size in opened) == found.bytes == count_parameters(layer) * 4


def test_of_the_hub_only_the_shards_with_the_layer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub
    from huggingface_hub.errors import RemoteEntryNotFoundError

    build("llama").save_pretrained(tmp_path / "hub", max_shard_size="20KB")
    fetched: list[str] = []

    def download(name: str, file: str, revision: str | None = None) -> str:
        if not (tmp_path / "hub" / file).exists():
            error: Any = RemoteEntryNotFoundError.__new__(RemoteEntryNotFoundError)
            raise error
        fetched.append(file)
        return str(tmp_path / "hub" / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.chdir(tmp_path)
    donor = Donor("some/llama")
    assert donor.give([1]).licence == "unknown"
    index = json.loads((tmp_path / "hub" / "model.safetensors.index.json").read_text())
    needed = {file for key, file in index["weight_map"].items() if ".layers.1." in key}
    shards = {file for file in fetched if file.endswith(".safetensors")}
    assert shards == needed and len(needed) < len(set(index["weight_map"].values()))


def test_a_whole_repository_that_is_out_of_reach_is_one_message() -> None:
    with pytest.raises(ModelError, match=r"nobody/nothing.*folder"):
        Donor("nobody/nothing")


@pytest.mark.parametrize(
    ("name", "said"), [("bert", "left to right"), ("t5", "left to right"), ("resnet", "resnet")]
)
def test_what_is_no_language_model_gives_nothing(name: str, said: str, tmp_path: Path) -> None:
    build(name).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=said):
        Donor(str(tmp_path))


def test_a_donor_with_code_of_its_own_is_refused_and_nobody_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig"}}
    (tmp_path / "config.json").write_text(json.dumps(own))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked at the terminal"))
    with pytest.raises(ModelError, match="brings Python code of its own"):
        Donor(str(tmp_path))


def test_a_layer_that_is_not_there_is_named(tmp_path: Path) -> None:
    build("llama").save_pretrained(tmp_path)
    with pytest.raises(PlanError, match=r"layer of .*got 4; allowed: 0 to 3"):
        Donor(str(tmp_path)).give([4])


def test_weights_without_the_layer_are_named(tmp_path: Path) -> None:
    model = build("llama")
    model.save_pretrained(tmp_path)
    kept = {n: v.clone() for n, v in model.state_dict().items() if "layers.2.mlp" not in n}
    save_file(kept, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"no mlp\..* of layer 2"):
        Donor(str(tmp_path)).give([2])


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: apache-2.0\n---\n", "apache-2.0"),
        ("---\nlicense: other\nlicense_name: qwen-research\n---\n", "qwen-research"),
        ("no card", "unknown"),
    ],
)
def test_the_licence_is_the_cards(card: str, licence: str, tmp_path: Path) -> None:
    build("llama").save_pretrained(tmp_path)
    (tmp_path / "README.md").write_text(card)
    assert Donor(str(tmp_path)).licence() == licence


def test_random_layers_are_the_same_every_time(tmp_path: Path) -> None:
    build("llama").save_pretrained(tmp_path)
    donor = Donor(str(tmp_path))
    once, again = (donor.give([1], random=True) for _ in range(2))
    assert once.identity == again.identity != donor.give([1]).identity
    assert set(once.tensors[0]) == set(donor.give([1]).tensors[0])


def test_every_attention_of_the_families_has_its_short_way() -> None:
    for name in DONORS:
        layer = blocks(made(name))[0]
        assert value_of(layer) is not None
        assert isinstance(getattr(layer, attention_name(layer)), nn.Module)
