"""Opening a model for a bench: loaded, on the device, with the study's rows as it reads them."""

import math
import platform
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers

from trainables.bench.data.fits import check_fits
from trainables.bench.data.roles import Data, load_data
from trainables.bench.data.split import MEASURED
from trainables.bench.data.tokenize import filler
from trainables.bench.footprint import items_that_fit, room_on
from trainables.bench.models.cards import cards, spread
from trainables.bench.models.check import check_model
from trainables.bench.models.load import (
    head_classes,
    load_config,
    load_model,
    load_processor,
    locate,
)
from trainables.bench.models.structure import family
from trainables.core.cache import Cache, digest
from trainables.core.lineage import Lineage, code, fingerprint
from trainables.core.spec import AUTO, BenchSpec
from trainables.stage import Reading, Subject


def open_subject(spec: BenchSpec, device: torch.device, cache: Cache) -> Subject:
    """The model that a spec names, as a subject.

    Raises UserError, with one message for the user.
    """
    task, folder = spec.data.task, locate(spec.model)
    processor = load_processor(folder, spec.model, task)
    config = load_config(folder, spec.model)
    head = head_classes(config, task)
    data = load_data(
        spec.data,
        processor,
        spec.data.seed_or(spec.seed),
        encoder_decoder=bool(getattr(config, "is_encoder_decoder", False)),
        classes=head,
    )
    model = spread(load_model(folder, spec.model, task, data.labels), cards(device, spec.cards))
    if task == "classification" and family(model).causal:  # it looks at the last real token
        model.config.get_text_config().pad_token_id = filler(processor)
    if spec.data.batch_size == AUTO and device.type == "cuda":
        data.resize(_fitting(spec, data, model.config, device))
    identity = digest(fingerprint(folder, cache), spec.model.dtype, data.labels)
    subject = Subject(model, Lineage(identity), Reading(processor, data, head))
    _check(subject, data, cache, device_name(device, spec.cards))
    return subject


def _fitting(spec: BenchSpec, data: Data, config: Any, device: torch.device) -> int:
    """How many items go through the model together, where the study leaves it open."""
    some, batch = data.by_batch("calibration")[0], data.batches("calibration")[0]
    rows = math.ceil(len(next(iter(batch.values()))) / len(some))
    most = max(len(data.items(role)) for role in MEASURED)
    room = min(map(room_on, cards(device, spec.cards)))
    return items_that_fit(spec, config, room, rows, most)


def _check(subject: Subject, data: Data, cache: Cache, device: str) -> None:
    """What the model cannot do is said before anything is measured; found out once per model."""
    check_fits(data, subject.model)

    def check() -> bool:
        check_model(subject.model, data.batches("calibration")[0], data.task)
        return True

    made_by = (code(), transformers.__version__, device)
    key = digest(subject.lineage.key, data.fingerprint("calibration"), *made_by)
    cache.json("checked", key, check)


def device_name(device: torch.device, count: int = 1) -> str:
    """What a device is called, or several together: where numbers come from."""
    if device.type != "cuda":
        return _processor()
    return " + ".join(torch.cuda.get_device_name(one) for one in cards(device, count))


@cache
def _processor() -> str:
    """`cpu`, and what it is called."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # no Linux
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"cpu ({(names or [platform.processor() or platform.machine()])[0]})"
