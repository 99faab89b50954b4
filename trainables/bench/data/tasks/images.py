"""Images: opening them, and image classification as a task. Needs PIL and torch, nothing more."""

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar

import datasets
import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from trainables.bench.data.columns import Labels, Row, RowError
from trainables.bench.data.tasks.adapter import TaskAdapter
from trainables.core.errors import DataError
from trainables.core.spec import DataSpec, Role
from trainables.core.types import Batch

_LOOKED_AT = 200  # images that tell how pixels are given
_GREY = ("1", "L", "I", "I;16", "I;16B", "I;16L", "F")


@dataclass(frozen=True)
class Picture:
    """An image and its class."""

    image: Image.Image
    label: int


class ImageClassification(TaskAdapter[Picture]):
    """An image and its class.

    All images come in 8 bits, and in one mode: grey where the data set's are, else RGB.
    """

    required = ("image", "label")
    words: ClassVar[dict[str, tuple[str, ...]]] = {
        "image": ("img", "pixel_values", "picture"),
        "label": ("labels", "class", "fine_label"),
    }

    def __init__(self, spec: DataSpec, processor: Any, tables: Sequence[datasets.Dataset]) -> None:
        super().__init__(spec, processor, tables)
        self._image = self.columns.name("image")
        self.needed = [self._image]
        self.classes = Labels(tables, self.columns.name("label"))
        first = [row[self._image] for table in tables for row in islice(table, _LOOKED_AT)]
        self._highest = highest(first)
        self._mode = "L" if all(mode in _GREY for mode in _modes(first, self._highest)) else "RGB"

    def key(self, row: Row) -> bytes:
        image = self._opened(row)
        self._number(row)
        return f"{image.mode} {image.size}".encode() + image.tobytes()

    def item(self, row: Row) -> Picture:
        return Picture(self._opened(row), self._number(row))

    def items(self, rows: Iterator[Row], count: int) -> list[Picture]:
        found = super().items(rows, count)
        sizes = sorted({item.image.size for item in found})
        if self.processor is None and len(sizes) > 1:
            raise DataError(
                f"images of {len(sizes)} sizes, such as {sizes[0]} and {sizes[-1]}, and the model "
                "brings no image processor that makes them one",
                do="give it a preprocessor_config.json, or images of one size",
            )
        return found

    def _number(self, row: Row) -> int:
        assert self.classes is not None
        return self.classes.number(row)

    def _opened(self, row: Row) -> Image.Image:
        self.check(row)
        return open_image(row[self._image], self._highest).convert(self._mode)

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"images": f"{self._mode}, values up to {self._highest:g}"}

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


def highest(values: Iterable[Any]) -> float:
    """The white of images that come as numbers: 1, 255 or 65535, by the brightest of them.

    DataError where they are no such numbers.
    """
    arrays = [array for value in values if _is_numbers(value) if _is_sound(array := _array(value))]
    if not arrays:
        return 255.0
    low, high = min(map(np.min, arrays)), max(map(np.max, arrays))
    if low < 0 or high > 65535:
        raise DataError(
            f"images hold numbers from {low} to {high}",
            allowed="from 0 to 1, 255 or 65535",
            do="undo their normalisation",
        )
    if high <= 1:
        return 1.0
    return 255.0 if high <= 255 else 65535.0


def _array(value: Any) -> np.ndarray[Any, Any]:
    """Numbers as an array; an empty one where they make none, as rows of several lengths."""
    try:
        return np.asarray(value)
    except ValueError:
        return np.zeros(0)


def _is_sound(array: np.ndarray[Any, Any]) -> bool:
    return array.size > 0 and array.dtype.kind in "biuf" and bool(np.isfinite(array).all())


def _is_numbers(value: Any) -> bool:
    return value is not None and not isinstance(value, Image.Image | dict | bytes | str)


def _modes(values: Iterable[Any], white: float) -> Iterator[str]:
    for value in values:
        try:
            yield open_image(value, white).mode
        except RowError:
            continue


def open_image(value: Any, white: float = 255.0) -> Image.Image:
    """An image from any way a data set holds one: opened, packed as a file, or as pixels.

    Args:
        white: the highest number of images that come as numbers.

    Raises:
        RowError: it cannot be read.
    """
    if isinstance(value, dict):
        value = value["bytes"] if value.get("bytes") is not None else value["path"]
    try:
        if isinstance(value, bytes):
            value = ImageOps.exif_transpose(Image.open(io.BytesIO(value)))
        elif isinstance(value, str):
            value = ImageOps.exif_transpose(Image.open(value))
        if isinstance(value, Image.Image):
            return _eight_bits(value)
    except (OSError, UnidentifiedImageError, SyntaxError) as error:
        raise RowError("an image that cannot be read") from error
    return _from_numbers(_array(value), white)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey images of more than 8 bits a pixel in 8; all others as they are."""
    image.load()
    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return image.convert("L") if image.mode == "1" else image
    array = np.asarray(image, dtype=np.float64)
    wide = image.mode.startswith("I;16") or array.max(initial=0) > 255
    white = 65535.0 if wide else 1.0 if image.mode == "F" and array.max(initial=0) <= 1 else 255.0
    return _from_numbers(array, white)


def _from_numbers(pixels: np.ndarray[Any, Any], white: float) -> Image.Image:
    if pixels.ndim == 3 and pixels.shape[2] not in (1, 3, 4) and pixels.shape[0] in (1, 3, 4):
        pixels = pixels.transpose(1, 2, 0)  # channels first
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in (3, 4)):
        raise RowError("an image that is not height x width (x 1, 3 or 4)")
    if not _is_sound(pixels):
        raise RowError("an image of things that are not finite numbers")
    scaled = pixels if white == 255 else np.rint(pixels.astype(np.float64) * (255 / white))
    return Image.fromarray(np.clip(scaled, 0, 255).astype(np.uint8))


def _pixels(image: Image.Image) -> Tensor:
    """Channels x height x width from -1 to 1, for models that come without an image processor."""
    array = np.array(image, dtype=np.float32)
    channels_first = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(channels_first / 127.5 - 1))
