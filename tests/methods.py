"""The methods the contract test holds: one line each."""

from collections.abc import Collection
from typing import Any

import pytest

from tests.support.families import DECODERS, FAMILIES, MORE
from trainables.codebook import Codebook
from trainables.magnitude import Magnitude
from trainables.neurons import Neurons
from trainables.omission.method import Omission
from trainables.quantize import InHalfPrecision, Quantize, QuantizeMixed
from trainables.similarity.method import Similarity, SimilarityPerSample
from trainables.stage import Method
from trainables.wanda import Wanda

_ALL = [*FAMILIES, *MORE]
_WITH_FFN = [name for name in _ALL if name not in ("resnet", "convnext")]
_NO_STAGES = [name for name in _ALL if name not in ("resnet", "convnext")]
_LINEARS = [name for name in _ALL if name not in ("gpt2", "resnet")]  # which torchao quantizes

EVERY = 3  # of a method's families, one in so many is tried in every run of the tests

# (method, families, a field out of range)
METHODS: list[tuple[Method, list[str], dict[str, object]]] = [
    (Omission(skip=(1,)), [n for n in _ALL if n != "resnet"], {"skip": (-1,)}),
    (Omission(attention=(1,), ffn=(2,)), list(DECODERS), {"ffn": (0, 0)}),
    (Wanda(0.5), _ALL, {"sparsity": 1.0}),
    (Wanda(pattern=(2, 4)), _NO_STAGES, {"pattern": (4, 4)}),
    (Magnitude(0.5), _ALL, {"sparsity": 1.0}),
    (Magnitude(0.5, "global"), _ALL, {"scope": "model"}),
    (Magnitude(0.25, granularity="rows"), _ALL, {"granularity": "columns"}),
    (Magnitude(0.25, "global", "rows"), _ALL, {"sparsity": -0.1}),
    (Magnitude(pattern=(2, 4)), _NO_STAGES, {"pattern": (4, 4)}),
    (Neurons(0.3), _WITH_FFN, {"prune_ratio": 1.0}),
    (Neurons(0.3, score="weight", round_to=8), _WITH_FFN, {"score": "size"}),
    (Neurons(0.3, score="wanda", uniform=True), _WITH_FFN, {"weights": (0.5, 0.2, 0.1)}),
    (Neurons(0.2, score="gradient", against="model"), list(DECODERS), {"round_to": 0}),
    (Codebook(3), _ALL, {"bits": 9}),
    (
        Codebook(2, group=4, start="k-means++", embeddings=True),
        [*DECODERS, "bert", "t5"],
        {"group": -1},
    ),
    (Quantize("int8"), _LINEARS, {"scheme": "int9"}),
    (Quantize("int8-dynamic", spare=("ffn",)), _LINEARS, {"spare": ("head",)}),
    (Quantize("int4", spare_blocks=(1,)), _LINEARS, {"spare_blocks": (-1,)}),
    (Quantize("int8", embeddings=True), ["bert", "distilbert"], {"group": 1}),
    (QuantizeMixed(0.2), ["llama", "bert", "t5", "vit"], {"budget": 0.0}),
    (InHalfPrecision(), _ALL, {"dtype": "float8"}),
    (Similarity(threshold=0.0), _ALL, {"threshold": 101.0}),
    (SimilarityPerSample(0.0, k=2), _NO_STAGES, {"k": 0}),
]


def cases(among: Collection[str] = _ALL) -> list[Any]:
    """Every method with each of its families; most are slow, each method and each family by turns
    in every run."""
    found = []
    for index, (method, names, _) in enumerate(METHODS):
        tried = [name for name in names if name in among]
        for place, name in enumerate(tried):
            now = (place + index) % min(EVERY, len(tried)) == 0
            label = f"{type(method).__name__}-{index}-{name}"
            marks = () if now else (pytest.mark.slow,)
            found.append(pytest.param(method, name, id=label, marks=marks))
    return found
