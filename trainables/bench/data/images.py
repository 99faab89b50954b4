"""Images: opening them, and image classification as a task. Needs PIL and torch, nothing more."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import datasets
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from trainables.bench.data.adapter import TaskAdapter
from trainables.bench.data.columns import Row, label_names
from trainables.core.errors import DataError
from trainables.core.spec import DataSpec, Role
from trainables.core.types import Batch


@dataclass(frozen=True)
class Picture:
    """An image and its class."""

    image: Image.Image
    label: int


class ImageClassification(TaskAdapter[Picture]):
    """An image and its class."""

    words: ClassVar[dict[str, tuple[str, ...]]] = {
        "image": ("img", "pixel_values", "picture"),
        "label": ("labels", "class", "fine_label"),
    }

    def __init__(self, spec: DataSpec, processor: Any, tables: Sequence[datasets.Dataset]) -> None:
        super().__init__(spec, processor, tables)
        self.labels, self._number = label_names(tables, self.columns.name("label"))

    def key(self, row: Row) -> bytes:
        image = open_image(row[self.columns.name("image")])
        return f"{image.mode} {image.size}".encode() + image.tobytes()

    def usable(self, row: Row) -> bool:
        return row[self.columns.name("label")] in self._number

    def item(self, row: Row) -> Picture:
        seen = self.columns.view(row)
        return Picture(open_image(seen["image"]), self._number[seen["label"]])

    def batch(self, items: Sequence[Picture], role: Role) -> Batch:
        images = [item.image for item in items]
        labels = torch.tensor([item.label for item in items])
        if self.processor is None:
            return {
                "pixel_values": torch.stack([_pixels(image) for image in images]),
                "labels": labels,
            }
        images = [image.convert("RGB") for image in images]  # what processors are made for
        pixels: Tensor = self.processor(images=images, return_tensors="pt")["pixel_values"]
        return {"pixel_values": pixels, "labels": labels}


def open_image(value: Any) -> Image.Image:
    """An image from any way a data set holds one: opened, packed as a file, or as pixels."""
    if isinstance(value, Image.Image):
        return value
    if isinstance(value, dict):
        value = value["bytes"] if value.get("bytes") is not None else value["path"]
    if isinstance(value, bytes):
        return Image.open(io.BytesIO(value))
    if isinstance(value, str):
        return Image.open(value)
    pixels = np.asarray(value)
    if pixels.ndim not in (2, 3) or pixels.min() < 0 or pixels.max() > 255:
        raise DataError(
            f"an image is {pixels.shape} from {pixels.min()} to {pixels.max()}; allowed is "
            "height x width (x 3), from 0 to 255"
        )
    return Image.fromarray(pixels.astype(np.uint8))


def _pixels(image: Image.Image) -> Tensor:
    """Channels x height x width from -1 to 1, for models that come without an image processor."""
    image = image if image.mode in ("L", "RGB") else image.convert("RGB")
    array = np.array(image, dtype=np.float32)
    channels_first = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(channels_first / 127.5 - 1))
