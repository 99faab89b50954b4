"""Weight clustering: every weight becomes the nearest of a few numbers, and is stored as a code.

Source: "Deep Compression: Compressing Deep Neural Networks with Pruning, Trained Quantization and
Huffman Coding", Han et al., ICLR 2016 (arXiv 1510.00149): k-means over the weights of a layer, of
centroids that start evenly spread, and gradients summed per centroid to train them. Starts drawn
by distance are k-means++, Arthur and Vassilvitskii, 2007. What is computed with is as large and as
fast as before; what is smaller is the file.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal, TypeAlias, get_args

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn
from torch.nn.utils import parametrize

from trainables.bench.models.packed.weights import Codes, codes_of, note_codes, noted_codes
from trainables.bench.models.structure import linears, rows, unrows
from trainables.bench.training.loop import Recipe, TrainingSteps
from trainables.core.errors import PlanError
from trainables.core.fork import put
from trainables.core.lineage import Effect
from trainables.core.types import Linear, PreTrainedModel, Progress, Stats
from trainables.recover import Recover
from trainables.stage import Bench, Method, Summary, Trained

Start: TypeAlias = Literal["linear", "k-means++"]
CODES = "codes"  # what weights are afterwards
ROUNDS = 1000  # of k-means, where it does not settle before; most settle within 300
_DRAWN_FROM = 1 << 14  # evenly spaced ones of the sorted weights, from which k-means++ draws


@dataclass(frozen=True)
class Clustered(Effect):
    """Each weight is the nearest centroid of k-means, which these settings decide."""

    bits: int
    group: int
    start: Start
    zeros: bool
    embeddings: bool
    seed: int


@dataclass(frozen=True)
class Codebook(Method):
    """Cluster the linears inside the blocks, and the token embeddings if asked.

    Attributes:
        bits: of a code, 2 to 8: 2^bits different weights.
        group: output rows of a linear that share a codebook, which divide them all; 0: all.
        start: linear: evenly from the lowest weight to the highest; k-means++: drawn by distance.
        zeros: weights that are zero stay zero, by a code of their own, where there are any.
        embeddings: the table of token embeddings too, with a head tied to it.
        seed: of k-means++.
    """

    bits: int = 4
    group: int = 0
    start: Start = "linear"
    zeros: bool = True
    embeddings: bool = False
    seed: int = 0
    leaves: ClassVar[str] = CODES

    def __post_init__(self) -> None:
        self.require("bits", type(self.bits) is int and 2 <= self.bits <= 8, "2 to 8")
        self.require("group", type(self.group) is int and self.group >= 0, "0 (all), or more")
        self.require("start", self.start in get_args(Start), " or ".join(get_args(Start)))
        self.require("seed", type(self.seed) is int and self.seed >= 0, "0 or more")

    @property
    def runtime(self) -> str:
        return "trainables.load, which looks the codes up; what is smaller is the file alone"

    def apply(self, model: PreTrainedModel, stats: Stats) -> Summary:
        layers = clusterable(model, self.embeddings)
        codes = {name: self._cluster(model, name, layer) for name, layer in layers.items()}
        weights = sum(one.indices.numel() for one in codes.values())
        counts = {"clustered": weights, "centroids": sum(c.book.numel() for c in codes.values())}
        effect = Clustered(
            self.bits, self.group, self.start, self.zeros, self.embeddings, self.seed
        )
        return Summary((effect,), counts, label=f"codebook {self.bits} bits")

    def _cluster(self, model: PreTrainedModel, name: str, layer: Linear) -> Codes:
        weight = rows(layer).detach()
        count = len(weight) if isinstance(layer, nn.Embedding) else self.group or len(weight)
        if len(weight) % count:
            do = f"{name} has {len(weight)} rows, which that does not divide"
            raise PlanError("Codebook.group", got=self.group, allowed="0, or a divisor", do=do)
        codes = cluster(
            weight.reshape(len(weight) // count, -1),
            2**self.bits,
            self.start,
            zeros=self.zeros,
            seed=self.seed,
        )
        put_codes(model, layer, codes)
        return codes


def clusterable(model: PreTrainedModel, embeddings: bool = False) -> dict[str, Linear]:
    """The layers whose weights may be clustered, by name; the embeddings first."""
    found: dict[str, Linear] = {}
    table = model.get_input_embeddings() if embeddings else None
    if isinstance(table, nn.Embedding):
        found = {name: one for name, one in model.named_modules() if one is table}  # type: ignore[misc]
    return {**found, **linears(model)}


def put_codes(model: PreTrainedModel, layer: Linear, codes: Codes) -> None:
    """Give a fork's layer the weight that codes stand for, and note them; those that share its
    weight go on to."""
    tied = sharing(model, layer)
    put(layer, "weight", unrows(layer, codes.numbers().view(rows(layer).shape)))
    note_codes(layer, codes)
    for other in tied:
        other._parameters["weight"] = layer._parameters["weight"]


def sharing(model: PreTrainedModel, layer: nn.Module) -> list[nn.Module]:
    """The other modules whose weight is this layer's."""
    weight = layer._parameters.get("weight")
    others = (one for one in model.modules() if one is not layer)
    return [one for one in others if one._parameters.get("weight") is weight is not None]


# -- k-means in one dimension ----------------------------------------------------------------------


def cluster(
    values: Float[Tensor, "groups count"],
    size: int,
    start: Start = "linear",
    *,
    zeros: bool = False,
    seed: int = 0,
) -> Codes:
    """The codes of each group's values, by k-means.

    Args:
        size: of a codebook.
        zeros: zero has a code of its own where any value is zero, which leaves `size` - 1.
    """
    apart = (values == 0) if zeros else torch.zeros_like(values, dtype=torch.bool)
    spared = bool(apart.any())
    order = values.double().sort(1).values
    counted = (order != 0) if spared else torch.ones_like(order, dtype=torch.bool)
    begin = starts(order, counted, size - spared, start, seed)
    book = k_means(order, counted, begin).to(values.dtype)
    indices = nearest(values, book)
    if spared:
        book = torch.cat((torch.zeros_like(book[:, :1]), book), 1)
        indices = torch.where(apart, 0, indices + 1).to(torch.uint8)
    return Codes(indices, book, spared)


def k_means(
    order: Float[Tensor, "groups count"],
    counted: Bool[Tensor, "groups count"],
    start: Float[Tensor, "groups size"],
) -> Float[Tensor, "groups size"]:
    """Centroids in ascending order, from a start: those of lower inertia of Lloyd's algorithm with
    equal values that fill empty clusters once each, or as often as they are there, which is
    scikit-learn's rule. Values of 16 bits are equal by the dozen; without equal ones both agree.

    Args:
        order: float64, ascending.
        counted: whether a value counts.
    """
    once = lloyd(order, counted, start)
    if not bool(((order.diff(dim=1) == 0) & counted[:, 1:]).any()):
        return once
    often = lloyd(order, counted, start, equal_once=False)
    lower = inertia(order, counted, once) <= inertia(order, counted, often)
    return torch.where(lower[:, None], once, often)


def inertia(
    order: Float[Tensor, "groups count"],
    counted: Bool[Tensor, "groups count"],
    centroids: Float[Tensor, "groups size"],
) -> Float[Tensor, " groups"]:
    """The sum of squared distances to the nearest centroid, per group."""
    owner = torch.searchsorted(_between(centroids), order)
    return ((order - centroids.gather(1, owner)).square() * counted).sum(1)


def lloyd(
    order: Float[Tensor, "groups count"],
    counted: Bool[Tensor, "groups count"],
    start: Float[Tensor, "groups size"],
    equal_once: bool = True,
) -> Float[Tensor, "groups size"]:
    """Centroids in ascending order, from a start: Lloyd's rounds until nothing changes.

    In one dimension a cluster is a run of the sorted values, so a round needs the places of its
    borders and sums from there to there, not the values. An empty cluster moves to the value that
    is farthest from its centroid, as scikit-learn's do: of an even start most would stay empty.

    Args:
        order: float64, ascending.
        counted: whether a value counts.
        equal_once: of equal values one alone may fill an empty cluster.
    """
    anew = nn.functional.pad(order.diff(dim=1) > 0, (1, 0), value=True)
    movable = counted & anew if equal_once else counted
    sums, counts = _running(order * counted), _running(counted.double())
    centroids, last = start.sort(1).values, None
    for _ in range(ROUNDS):
        borders = torch.searchsorted(order, _between(centroids), right=True)
        if last is not None and torch.equal(borders, last):
            break
        last = borders
        many, total = _of_runs(counts, borders), _of_runs(sums, borders)
        if bool((many == 0).any()):
            _fill_the_empty(many, total, order, movable, centroids)
        centroids = torch.where(many > 0, total / many.clamp(min=1), centroids).sort(1).values
    return centroids


def _fill_the_empty(
    many: Tensor, total: Tensor, order: Tensor, movable: Tensor, centroids: Tensor
) -> None:
    """Move values that are far from their centroids into clusters of their own: how many there are
    in each cluster, and their sums, are changed in place."""
    empty = many == 0
    most, owner = int(empty.sum(1).max()), torch.searchsorted(_between(centroids), order)
    gaps = (order - centroids.gather(1, owner)).square() * movable
    gap, far = gaps.topk(min(most, gaps.shape[1]), dim=1)
    wanted = torch.arange(gap.shape[1], device=gap.device) < empty.sum(1, keepdim=True)
    moved = (wanted & (gap > 0)).to(order.dtype)
    into = (~empty).int().argsort(dim=1, stable=True)[:, : gap.shape[1]]  # the empty ones first
    value, out = order.gather(1, far), owner.gather(1, far)
    for place, sign in ((out, -1), (into, 1)):
        many.scatter_add_(1, place, sign * moved)
        total.scatter_add_(1, place, sign * moved * value)


def _between(centroids: Tensor) -> Tensor:
    return ((centroids[:, 1:] + centroids[:, :-1]) / 2).contiguous()


def _running(values: Tensor) -> Tensor:
    return nn.functional.pad(values.cumsum(1), (1, 0))


def _of_runs(running: Tensor, borders: Tensor) -> Tensor:
    """From running sums those of the runs between borders."""
    ends = (running[:, :1], running.gather(1, borders), running[:, -1:])
    return torch.cat(ends, 1).diff(dim=1)


def nearest(
    values: Float[Tensor, "groups count"], book: Float[Tensor, "groups size"]
) -> UInt8[Tensor, "groups count"]:
    """The number of the nearest entry of an ascending book; of two as near, the lower."""
    borders = _between(book.float())
    return torch.searchsorted(borders, values.float().contiguous()).to(torch.uint8)


def starts(
    order: Float[Tensor, "groups count"],
    counted: Bool[Tensor, "groups count"],
    size: int,
    how: Start,
    seed: int = 0,
) -> Float[Tensor, "groups size"]:
    """Where centroids begin: evenly from the lowest to the highest that counts, or drawn."""
    if how == "linear":
        low = torch.where(counted, order, torch.inf).amin(1, keepdim=True)
        high = torch.where(counted, order, -torch.inf).amax(1, keepdim=True)
        none = ~counted.any(1, keepdim=True)
        low, high = low.masked_fill(none, 0), high.masked_fill(none, 0)
        return low + (high - low) * torch.linspace(0, 1, size, dtype=order.dtype).to(order.device)
    places = torch.linspace(0, order.shape[1] - 1, min(order.shape[1], _DRAWN_FROM)).long()
    places = places.to(order.device)
    return _drawn(order[:, places], counted[:, places].double(), size, seed)


def _drawn(values: Tensor, weights: Tensor, size: int, seed: int) -> Tensor:
    """k-means++: each centroid a value, drawn by its squared distance from those before."""
    generator = torch.Generator().manual_seed(seed)
    shares = torch.rand(size, generator=generator, dtype=values.dtype).to(values.device)
    found, gaps = [], weights
    for number in range(size):
        running = gaps.cumsum(1)
        place = torch.searchsorted(running, (running[:, -1:] * shares[number]).contiguous())
        chosen = values.gather(1, place.clamp(max=values.shape[1] - 1))
        found.append(chosen)
        squared = (values - chosen).square() * weights
        gaps = squared if number == 0 else torch.minimum(gaps, squared)
    return torch.cat(found, 1)


# -- training the centroids ------------------------------------------------------------------------


class _Looked(nn.Module):
    """A weight looked up in its book: what the book learns is summed over all who look there."""

    def __init__(self, layer: Linear, codes: Codes) -> None:
        super().__init__()
        groups, size = codes.book.shape
        first = size * torch.arange(groups, device=codes.indices.device)[:, None]
        places = (codes.indices.long() + first).view(rows(layer).shape)
        self.places = unrows(layer, places)  # of every number, as the layer stores them

    def forward(self, book: Tensor) -> Tensor:
        return book.flatten().gather(0, self.places.flatten()).view(self.places.shape)


@contextmanager
def _books(layers: Sequence[Linear]) -> Iterator[list[Codes]]:
    """Inside, each layer's weight is looked up in a parameter, its book, which can learn."""
    found: list[Codes] = []
    for layer in layers:
        codes = noted_codes(layer)
        assert codes is not None
        look = _Looked(layer, codes)
        layer.register_parameter("weight", nn.Parameter(codes.book.clone()))
        parametrize.register_parametrization(layer, "weight", look, unsafe=True)
        found.append(codes)
    try:
        yield found
    finally:
        for layer in layers:
            parametrize.remove_parametrizations(layer, "weight")


@dataclass(frozen=True, init=False)
class TuneCodebook(Recover):
    """Train a clustered model: which weight has which code stays, what the codes stand for learns,
    and so does all that is not clustered."""

    takes: ClassVar[frozenset[str]] = frozenset({CODES})

    def on(self, bench: Bench) -> Generator[Progress, None, Summary]:
        layers = self._layers(bench.model)
        self.require("training", not self.training.lora_rank, "one with lora_rank = 0")
        done = yield from self.learn(bench, rule={"learns": "centroids"})
        for layer in layers:
            _note_anew(layer)
        return Summary((Trained(done.how),), done.counts, done.details, label="centroids trained")

    def _layers(self, model: PreTrainedModel) -> list[Linear]:
        """The layers that still are what their codes say."""
        every = clusterable(model, embeddings=True).values()
        found = [one for one in every if codes_of(one, rows(one).detach()) is not None]
        if not found:
            raise PlanError("TuneCodebook: no weight is clustered", do="put Codebook before it")
        if any(sharing(model, layer) for layer in found):
            do = "cluster with embeddings = false, or leave TuneCodebook out"
            raise PlanError("TuneCodebook: the token embeddings are tied to the head", do=do)
        return found

    def _train(
        self,
        bench: Bench,
        trained: Sequence[int] | None,
        checkpoint: Path | None,
        change: Callable[[Recipe], Recipe],
    ) -> TrainingSteps:
        with _books(self._layers(bench.model)):
            return (yield from super()._train(bench, trained, checkpoint, change))

    def _recipe(self, bench: Bench, still: Sequence[int]) -> Recipe:
        """Zeros that have a code of their own stay."""
        recipe = super()._recipe(bench, still)
        return replace(recipe, zeros=[*recipe.zeros, *_zero_entries(bench.model)])


def _zero_entries(model: PreTrainedModel) -> Iterator[tuple[Tensor, Tensor]]:
    """(a book that learns, where it is to stay zero)."""
    for layer in model.modules():
        codes = noted_codes(layer)
        if codes is not None and codes.zero and parametrize.is_parametrized(layer, "weight"):
            book: Tensor = layer.parametrizations.weight.original  # type: ignore[union-attr]
            mask = torch.zeros_like(book, dtype=torch.bool)
            mask[:, 0] = True
            yield book, mask


def _note_anew(layer: Linear) -> None:
    """The book of a layer whose weight has learned."""
    codes = noted_codes(layer)
    assert codes is not None
    learned = rows(layer).detach().reshape(codes.indices.shape)
    book = codes.book.to(learned.device, learned.dtype).clone()
    note_codes(layer, replace(codes, book=book.scatter_(1, codes.indices.long(), learned)))
