"""What ILM looks at: pooled states of all layers of a language model, and what is fitted on them.

States depend on model, texts, pooling and length alone, a probe on the states, components on the
states and their number: each is computed once and lies in the cache for all trials and workers.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from trainables.bench.data.tokenize import filler, stack
from trainables.core.cache import Cache, digest, digest_tensors
from trainables.core.errors import PlanError
from trainables.core.lineage import code, fingerprint
from trainables.core.spec import ModelSpec
from trainables.core.types import Batch, PreTrainedModel
from trainables.ilm.effects import Basis, Probe, components, fit_probe, folds
from trainables.stage import Bench

Pooling: TypeAlias = Literal["mean", "last", "first"]
FOLDS = 5  # of the held-out variant
_BATCH = 16


@dataclass(frozen=True)
class Sample:
    """Texts with their classes, drawn from the calibration role."""

    texts: tuple[str, ...]
    labels: Int[np.ndarray, " samples"]


def draw(bench: Bench, count: int, seed: int) -> Sample:
    """So many texts of the calibration role, without replacement.

    Raises PlanError for another task than classification, and where there are too few.
    """
    if bench.data.task != "classification":
        raise PlanError("ILM looks at texts with classes", got=bench.data.task)
    items = bench.data.items("calibration")
    if count > len(items):
        raise PlanError(
            f"ILM.n_samples = {count}: [data.items] calibration has {len(items)}",
            do="set calibration at least as high, or n_samples lower",
        )
    chosen = np.random.default_rng(seed).choice(len(items), size=count, replace=False)
    picked = [items[int(index)] for index in chosen]
    texts = tuple("\n".join(filter(None, (one.text, one.second))) for one in picked)
    return Sample(texts, np.array([one.label for one in picked]))


# -- the states ------------------------------------------------------------------------------------


def pooled(
    hidden: Float[Tensor, "rows positions features"],
    mask: Int[Tensor, "rows positions"],
    pooling: Pooling,
) -> Float[Tensor, "rows features"]:
    """One vector per row: its first or last token's that is no padding, or the mean of them all."""
    if pooling == "mean":
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-6)
    order = mask if pooling == "first" else mask.flip(1)
    first = order.argmax(1)  # the first 1
    index = first if pooling == "first" else mask.shape[1] - 1 - first
    return hidden[torch.arange(len(hidden), device=hidden.device), index]


@torch.no_grad()
def layer_states(
    model: PreTrainedModel, batches: Sequence[Batch], pooling: Pooling
) -> Float[Tensor, "layers samples features"]:
    """The pooled output of every layer, in float32 on the CPU.

    As transformers tells them: the output of the embedding left out, the last layer's after the
    final norm, all others before any.
    """
    found = []
    for batch in batches:
        inputs = {name: value.to(model.device) for name, value in batch.items()}
        out = model(**inputs, output_hidden_states=True, use_cache=False)
        mask = inputs["attention_mask"]
        rows = [pooled(one.float(), mask, pooling).cpu() for one in out.hidden_states[1:]]
        found.append(torch.stack(rows))
    return torch.cat(found, 1)


def tokenized(tokenizer: Any, texts: Sequence[str], max_length: int) -> tuple[list[Batch], Tensor]:
    """Batches of texts of about one length, and where each text went."""
    ids = tokenizer(list(texts), truncation=True, max_length=max_length)["input_ids"]
    order = sorted(range(len(ids)), key=lambda index: -len(ids[index]))
    fill = filler(tokenizer)
    batches = []
    for start in range(0, len(order), _BATCH):
        rows = [ids[index] or [fill] for index in order[start : start + _BATCH]]
        masks = [[1] * len(row) for row in rows]
        batches.append({"input_ids": stack(rows, fill), "attention_mask": stack(masks, 0)})
    return batches, torch.tensor(order).argsort()


@dataclass(frozen=True)
class Donor:
    """The language model whose layers are looked at."""

    spec: ModelSpec
    folder: Path

    @classmethod
    def of(cls, name: str, dtype: str = "float32") -> "Donor":
        """By hub id, folder or asset. Raises ModelError."""
        from trainables.bench.models.load import locate  # here: it needs transformers

        spec = ModelSpec.model_validate({"id": name, "dtype": dtype})
        return cls(spec, locate(spec))

    def states(
        self, texts: Sequence[str], pooling: Pooling, max_length: int, device: torch.device
    ) -> Float[Tensor, "layers samples features"]:
        """Load the model, look at the texts, let go of it."""
        from transformers import AutoModel

        from trainables.bench.data.fits import positions
        from trainables.bench.models.load import load_config, load_processor

        tokenizer = load_processor(self.folder, self.spec, "classification")
        config = load_config(self.folder, self.spec)
        if getattr(config, "is_encoder_decoder", False):
            raise PlanError(f"ILM: {self.spec.id} is an encoder-decoder, not a language model")
        dtype = getattr(torch, self.spec.dtype)
        model = AutoModel.from_pretrained(self.folder, dtype=dtype).eval()
        most = positions(model)
        if most is not None and max_length > most:
            allowed = f"up to the {most} positions of {self.spec.id}"
            raise PlanError("ILM.max_length", got=max_length, allowed=allowed)
        model.to(device)
        batches, places = tokenized(tokenizer, texts, max_length)
        return layer_states(model, batches, pooling)[:, places]


# -- what trials share -----------------------------------------------------------------------------


class Measured:
    """The states of one sample, and what is fitted on them: from the cache, where there is one.

    Args:
        cache: None to compute everything anew.
    """

    def __init__(
        self,
        states: Float[Tensor, "layers samples features"],
        labels: Int[np.ndarray, " samples"],
        key: str,
        cache: Cache | None,
    ) -> None:
        self.states, self.labels, self.key, self.cache = states, labels, key, cache

    def layers(self) -> Iterator[Float[np.ndarray, "samples features"]]:
        """The states of one layer after the other, copied out of the file they lie in: sums round
        by where in memory a number lies, and are to be the same with and without a cache."""
        for layer in self.states:
            yield layer.clone().numpy()

    def _kept(
        self, kind: str, key: tuple[object, ...], make: Callable[[], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        if self.cache is None:
            found = make()
        else:
            found = self.cache.tensors(kind, digest(self.key, *key), make)
        return {
            name: value.clone(memory_format=torch.contiguous_format)
            for name, value in found.items()
        }

    def plain(self, key: tuple[object, ...], make: Callable[[], Sequence[float]]) -> list[float]:
        """A score of every layer, which depends on the states and on what `key` says."""
        found = self._kept("scores", ("scores", *key), lambda: {"value": _tensor(make())})
        values: list[float] = found["value"].tolist()
        return values

    def bases(self, n_pcs: int) -> list[Basis]:
        """Every layer's components."""
        return self._bases(n_pcs, np.arange(len(self.labels)), ())

    def probes(self) -> list[Probe]:
        """Every layer's probe, fitted on all samples."""
        return self._probes(np.arange(len(self.labels)), ())

    def parts(
        self, n_pcs: int, seed: int
    ) -> list[list[tuple[Int[np.ndarray, " held"], Basis, Probe]]]:
        """For every layer (the samples held out, components and probe of the others), fold by
        fold."""
        made = []
        for number, held in enumerate(folds(self.labels, FOLDS, seed)):
            rest = np.setdiff1d(np.arange(len(self.labels)), held)
            key = ("held out", number, seed)
            pairs = zip(self._bases(n_pcs, rest, key), self._probes(rest, key), strict=True)
            made.append([(held, basis, probe) for basis, probe in pairs])
        return [list(layer) for layer in zip(*made, strict=True)]

    def _bases(
        self, n_pcs: int, rows: Int[np.ndarray, " rows"], key: tuple[object, ...]
    ) -> list[Basis]:
        def make() -> dict[str, Tensor]:
            made = [components(layer[rows], n_pcs) for layer in self.layers()]
            return {
                name: torch.from_numpy(np.stack([getattr(one, name) for one in made]))
                for name in ("scores", "components", "mean")
            }

        found = self._kept("components", ("components", n_pcs, *key), make)
        names = ("scores", "components", "mean")
        return [Basis(*parts) for parts in zip(*(found[n].numpy() for n in names), strict=True)]

    def _probes(self, rows: Int[np.ndarray, " rows"], key: tuple[object, ...]) -> list[Probe]:
        def make() -> dict[str, Tensor]:
            made = [fit_probe(layer[rows], self.labels[rows]) for layer in self.layers()]
            return {
                name: torch.from_numpy(np.stack([getattr(one, name) for one in made]))
                for name in ("weight", "bias", "classes")
            }

        found = self._kept("probes", ("probes", *key), make)
        names = ("weight", "bias", "classes")
        return [Probe(*parts) for parts in zip(*(found[n].numpy() for n in names), strict=True)]


def _tensor(values: Sequence[float]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.float64)


def measured(
    bench: Bench, donor: str, count: int, seed: int, pooling: Pooling, max_length: int, dtype: str
) -> Measured:
    """The states of a donor's layers on a draw of the bench's texts.

    Raises UserError where the donor cannot be loaded or the data does not allow it.
    """
    sample, found = draw(bench, count, seed), Donor.of(donor, dtype)

    def make() -> dict[str, Tensor]:
        states = found.states(sample.texts, pooling, max_length, bench.device)
        return {"states": states.contiguous(), "labels": torch.from_numpy(sample.labels)}

    key = state_key(found, sample, pooling, max_length, bench)
    cache = None if bench.spec.naive else bench.cache
    entry = make() if cache is None else cache.tensors("states", key, make)
    return Measured(entry["states"], sample.labels, key, cache)


def state_key(donor: Donor, sample: Sample, pooling: str, max_length: int, bench: Bench) -> str:
    """What decides the states: the donor's content, the texts, how they are read and pooled, and
    what computes it."""
    import transformers

    model = (fingerprint(donor.folder, bench.cache), donor.spec.dtype)
    texts = digest(sample.texts, digest_tensors({"labels": torch.from_numpy(sample.labels)}))
    made_by = (code(), transformers.__version__, bench.device.type)
    return digest(model, texts, pooling, max_length, made_by)
