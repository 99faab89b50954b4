"""Packed numbers and packed folders."""

import json
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from tests.support.families import batches, build
from tests.support.toys import bytes_tokenizer
from tests.trainables.bench.models.test_save import uneven
from trainables.bench.metrics.cost import saved_bytes
from trainables.bench.models.packed.bits import pack, packed_bytes, unpack
from trainables.bench.models.packed.form import needs_packing
from trainables.bench.models.save import save
from trainables.bench.models.structure import linears, rows
from trainables.bench.models.verify import logits, prove
from trainables.codebook import Codebook
from trainables.core.errors import ModelError
from trainables.core.fork import fork, put
from trainables.load import load


def test_five_numbers_of_three_bits_are_two_bytes() -> None:
    values = torch.tensor([1, 2, 3, 4, 5], dtype=torch.uint8)
    packed = pack(values, 3)
    # lowest bits first: 001 010 011 100 101 -> 11010001 01011000 as bytes read high to low
    assert packed.tolist() == [0b11010001, 0b01011000]
    assert torch.equal(unpack(packed, 3, 5), values)


@pytest.mark.parametrize("bits", range(1, 9))
def test_any_width_comes_back_in_the_bytes_it_was_to_take(bits: int) -> None:
    values = torch.randint(0, 2**bits, (1003,), dtype=torch.uint8)
    packed = pack(values, bits)
    assert len(packed) == packed_bytes(1003, bits) == -(-1003 * bits // 8)
    assert torch.equal(unpack(packed, bits, 1003), values)


def test_a_packed_folder_is_smaller_by_what_the_codes_save(tmp_path: Path) -> None:
    model, batch = build("bert"), batches("bert")[0]
    own = fork(model)
    Codebook(3).apply(own, {})
    saved = save(own, bytes_tokenizer(), "classification", tmp_path)
    assert not saved.plain and "Rayduce" in saved.note
    assert prove(saved.load, tmp_path, own, batch).equal
    size = (tmp_path / "model.safetensors").stat().st_size
    assert size == saved_bytes(own)
    weights = [rows(layer).numel() for layer in linears(model).values()]
    less = sum(4 * count - packed_bytes(count, 3) - 4 * 8 for count in weights)
    names = 150 * len(weights)  # a second entry of the header for each
    assert 0 <= size - (saved_bytes(model) - less) < names


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_a_precision_comes_back_as_it_was(dtype: torch.dtype, tmp_path: Path) -> None:
    build("llama").save_pretrained(tmp_path / "dense")
    own = LlamaForCausalLM.from_pretrained(tmp_path / "dense", dtype=dtype).eval()
    Codebook(4, embeddings=True).apply(own, {})
    save(own, None, "language-modelling", tmp_path)
    again = load(tmp_path)
    assert again.dtype == dtype
    assert torch.equal(logits(again, batches("llama")[0]), logits(own, batches("llama")[0]))


def test_uneven_widths_are_packed_as_they_are(tmp_path: Path) -> None:
    own = uneven("bert")
    Codebook(4).apply(own, {})
    save(own, None, "classification", tmp_path)
    again, batch = load(tmp_path), batches("bert")[0]
    assert torch.equal(logits(again, batch), logits(own, batch))


def test_a_weight_that_was_changed_since_is_stored_as_it_is(tmp_path: Path) -> None:
    own = fork(build("bert"))
    Codebook(4).apply(own, {})
    name, layer = next(iter(linears(own).items()))
    put(layer, "weight", layer.weight.detach() * 1.5)
    save(own, None, "classification", tmp_path)
    assert f"{name}.weight" not in json.loads((tmp_path / "packed.json").read_text())["weights"]
    batch = batches("bert")[0]
    assert torch.equal(logits(load(tmp_path), batch), logits(own, batch))


def test_nothing_is_packed_that_is_not_clustered() -> None:
    assert not needs_packing(build("bert"))


def test_a_torn_folder_is_one_message(tmp_path: Path) -> None:
    own = fork(build("bert"))
    Codebook(4).apply(own, {})
    save(own, None, "classification", tmp_path)
    (tmp_path / "packed.json").write_text("{")
    with pytest.raises(ModelError, match="not a whole packed form"):
        load(tmp_path)
