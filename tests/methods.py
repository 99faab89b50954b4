"""The methods the contract test holds: one line each."""

from tests.support.families import DECODERS, FAMILIES
from trainables.omission.method import Omission
from trainables.similarity.method import Similarity, SimilarityPerSample
from trainables.stage import Method
from trainables.wanda import Wanda

# (method, families, a field out of range)
METHODS: list[tuple[Method, list[str], dict[str, object]]] = [
    (Omission(skip=(1,)), [n for n in FAMILIES if n != "resnet"], {"skip": (-1,)}),
    (Omission(attention=(1,), ffn=(2,)), list(DECODERS), {"ffn": (0, 0)}),
    (Wanda(0.5), list(FAMILIES), {"sparsity": 1.0}),
    (Wanda(pattern=(2, 4)), [n for n in FAMILIES if n != "resnet"], {"pattern": (4, 4)}),
    (Similarity(threshold=0.0), list(FAMILIES), {"threshold": 101.0}),
    (SimilarityPerSample(0.0, k=2), [n for n in FAMILIES if n != "resnet"], {"k": 0}),
]
