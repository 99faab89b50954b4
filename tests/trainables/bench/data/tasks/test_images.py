"""Images in the many ways that data sets hold them."""

import io
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from trainables.bench.data.roles import Data, load_data
from trainables.bench.data.tasks.images import highest, open_image
from trainables.core.errors import DataError
from trainables.core.spec import DataSpec

FEW = {"calibration": 2, "train": 4, "search": 3, "held_out": 2}
DRAW = np.random.default_rng(0)
GREY = DRAW.integers(0, 256, (20, 6, 6), dtype=np.uint8)
COLOUR = DRAW.integers(0, 256, (20, 6, 6, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def png(image: Image.Image) -> dict[str, Any]:
    file = io.BytesIO()
    image.save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def loaded(folder: Path, images: list[Any]) -> Data:
    rows = {"image": images, "label": [i % 2 for i in range(len(images))]}
    datasets.Dataset.from_dict(rows).to_parquet(str(folder / "i.parquet"))
    given = {
        "dataset": str(folder / "i.parquet"),
        "task": "image-classification",
        "items": FEW,
        "batch_size": 2,
    }
    return load_data(DataSpec.model_validate(given), None, 0)


def seen(data: Data) -> set[bytes]:
    roles = ("train", "search", "held_out", "calibration")
    return {item.image.tobytes() for role in roles for item in data.items(role)}


AS_NUMBERS = {
    "0 to 255": lambda array: array.tolist(),
    "0 to 1": lambda array: (array / 255).tolist(),
    "16 bits": lambda array: (array.astype(np.int64) * 257).tolist(),
    "0.0 to 255.0": lambda array: array.astype(float).tolist(),
}


@pytest.mark.parametrize("scale", AS_NUMBERS)
def test_numbers_of_any_scale_are_the_same_image(tmp_path: Path, scale: str) -> None:
    grey = loaded(tmp_path, [AS_NUMBERS[scale](array) for array in GREY])
    assert seen(grey) <= {array.tobytes() for array in GREY} and len(seen(grey)) == 11
    colour = loaded(tmp_path, [AS_NUMBERS[scale](array) for array in COLOUR])
    assert seen(colour) <= {array.tobytes() for array in COLOUR}
    assert colour.batches("search")[0]["pixel_values"].shape == (2, 3, 6, 6)


def test_channels_may_come_first(tmp_path: Path) -> None:
    data = loaded(tmp_path, [array.transpose(2, 0, 1).tolist() for array in COLOUR])
    assert seen(data) <= {array.tobytes() for array in COLOUR}
    data = loaded(tmp_path, [array[None].tolist() for array in GREY])
    assert seen(data) <= {array.tobytes() for array in GREY}


def test_grey_files_of_16_bits_are_not_white(tmp_path: Path) -> None:
    images = [Image.fromarray(array.astype(np.uint16) * 257) for array in GREY]
    data = loaded(tmp_path, [png(image) for image in images])
    assert seen(data) <= {array.tobytes() for array in GREY}
    assert data.batches("search")[0]["pixel_values"].shape == (2, 1, 6, 6)


def test_mixed_modes_become_one(tmp_path: Path) -> None:
    images = [
        Image.fromarray(GREY[i]) if i % 2 else Image.fromarray(COLOUR[i]).convert("RGBA")
        for i in range(20)
    ]
    data = loaded(tmp_path, [png(image) for image in images])
    for role in ("train", "search"):
        for batch in data.batches(role):
            assert batch["pixel_values"].shape[1:] == (3, 6, 6)


def test_black_and_white_is_grey(tmp_path: Path) -> None:
    data = loaded(tmp_path, [png(Image.fromarray(array > 100)) for array in GREY])
    assert data.batches("search")[0]["pixel_values"].unique().tolist() == [-1.0, 1.0]


def test_images_of_several_sizes_need_a_processor(tmp_path: Path) -> None:
    images = [Image.fromarray(GREY[i][: 4 + i % 2]) for i in range(20)]
    with pytest.raises(DataError, match=r"images of 2 sizes, such as \(6, 4\) and \(6, 5\)"):
        loaded(tmp_path, [png(image) for image in images])


def test_files_that_are_no_images_are_passed_over(tmp_path: Path) -> None:
    images = [png(Image.fromarray(array)) for array in GREY]
    images[3] = images[8] = {"bytes": b"GIF89a no", "path": None}
    data = loaded(tmp_path, images)
    data.settle()
    assert data.description["passed over"] in (
        {},
        *({"an image that cannot be read": n} for n in (1, 2)),
    )
    assert len(data.items("search")) == 3


@pytest.mark.parametrize("kind", [int, float, bool])
def test_images_of_two_values_are_black_and_white(tmp_path: Path, kind: type) -> None:
    data = loaded(tmp_path, [(array > 100).astype(kind).tolist() for array in GREY])
    assert data.batches("search")[0]["pixel_values"].unique().tolist() == [-1.0, 1.0]


def test_normalised_images_are_refused() -> None:
    with pytest.raises(DataError, match=r"from -1.0 to 1.0; allowed: from 0 to 1, 255 or 65535"):
        highest([np.array([[-1.0, 1.0]])])


def test_a_dark_image_is_read_on_the_scale_of_the_others() -> None:
    images = [np.full((2, 2), 0.0), np.full((2, 2), 1.0), np.full((2, 2), 200.0)]
    white = highest(images)
    assert np.asarray(open_image(images[1], white)).max() == 1


@pytest.mark.parametrize("odd", [[[1, 2], [3]], [[float("nan")] * 6] * 6])
def test_numbers_that_make_no_image_are_one_rows_trouble(tmp_path: Path, odd: Any) -> None:
    whole = [(array / 255).tolist() for array in GREY]
    data = loaded(tmp_path, [odd, *whole])
    assert seen(data) <= {array.tobytes() for array in GREY}
    assert sum(data.description["passed over"].values()) <= 1


def folder_of_images(folder: Path) -> DataSpec:
    for number, array in enumerate(GREY):
        place = folder / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(place / f"{number}.png")
    given = {"dataset": str(folder), "task": "image-classification", "items": FEW}
    return DataSpec.model_validate(given)


def test_a_file_that_is_no_image_is_passed_over(tmp_path: Path) -> None:
    spec = folder_of_images(tmp_path / "images [2]")
    for number in range(20):
        (tmp_path / "images [2]" / "a" / f"bad{number}.png").write_bytes(b"none %d" % number)
    data = load_data(spec, None, 0)
    assert seen(data) <= {array.tobytes() for array in GREY}
    assert data.description["passed over"]["an image that cannot be read"] > 0


def test_a_photo_is_turned_as_its_camera_says() -> None:
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side
    Image.new("L", (4, 8)).save(file, "PNG", exif=exif)
    assert open_image({"bytes": file.getvalue(), "path": None}).size == (8, 4)
