"""The shared cache: computed once, whole or not at all, within its limit, held while in use."""

import json
import multiprocessing
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Thread

import pytest
import torch
from torch import Tensor

from trainables.core.cache import Cache, digest, digest_tensors, write_durably

KB = 1000


def ones(count: int = 4) -> dict[str, Tensor]:
    return {"x": torch.ones(count)}


def bytes_of(size: int) -> Callable[[], Mapping[str, Tensor]]:
    return lambda: {"x": torch.zeros(size, dtype=torch.uint8)}


def never() -> dict[str, Tensor]:
    raise AssertionError("computed again")


def entries(cache: Cache) -> set[str]:
    return {p.name for p in cache.folder.glob("*/*") if not p.name.endswith((".lock", ".tmp"))}


# -- computed once -------------------------------------------------------------------------------


def test_tensors_are_computed_once_and_read_as_they_were(tmp_path: Path) -> None:
    made = {"a": torch.randn(3, 4).to(torch.bfloat16), "b": torch.arange(5)}
    cache = Cache(tmp_path)
    cache.tensors("stats", "k", lambda: made)
    again = Cache(tmp_path).tensors("stats", "k", never)
    assert again.keys() == made.keys()
    assert all(torch.equal(again[name], made[name]) for name in made)


def test_json_is_computed_once(tmp_path: Path) -> None:
    Cache(tmp_path).json("facts", "k", lambda: {"a": [1, 2.5]})
    assert Cache(tmp_path).json("facts", "k", never) == {"a": [1, 2.5]}


def test_what_is_stored_is_found_and_may_be_replaced(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    assert cache.find("metrics", "k") is None
    cache.store("metrics", "k", {"perplexity": 1.5})
    cache.store("metrics", "k", {"perplexity": 2.5})
    assert Cache(tmp_path).find("metrics", "k") == {"perplexity": 2.5}


@pytest.mark.parametrize("left", [0, 7, 60])
def test_what_is_torn_is_made_again(tmp_path: Path, left: int) -> None:
    cache = Cache(tmp_path)
    cache.tensors("stats", "k", ones), cache.json("facts", "k", lambda: {"a": [1, 2.5] * 20})
    cache.store("metrics", "k", {"perplexity": [1.5] * 20})
    for path in tmp_path.glob("*/k.*"):
        path.write_bytes(path.read_bytes()[:left])
    again = Cache(tmp_path)
    assert again.find("metrics", "k") is None and again.find_tensors("stats", "k") is None
    assert torch.equal(again.tensors("stats", "k", ones)["x"], torch.ones(4))
    assert again.json("facts", "k", lambda: {"b": 1}) == {"b": 1}
    assert Cache(tmp_path).json("facts", "k", never) == {"b": 1}
    assert Cache(tmp_path).tensors("stats", "k", never).keys() == {"x"}


def _work(folder: Path, calls: Path) -> None:
    def make() -> dict[str, Tensor]:
        with calls.open("a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(0.3)
        return ones()

    assert torch.equal(Cache(folder).tensors("stats", "k", make)["x"], torch.ones(4))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # from Python 3.12 on
def test_of_two_processes_one_computes_and_the_other_waits(tmp_path: Path) -> None:
    context, calls = multiprocessing.get_context("fork"), tmp_path / "calls"
    workers = [context.Process(target=_work, args=(tmp_path / "c", calls)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert len(calls.read_text().splitlines()) == 1


def test_who_waited_goes_on_while_the_maker_still_uses_the_entry(tmp_path: Path) -> None:
    maker, other, found = Cache(tmp_path), Cache(tmp_path), []
    waiting = Thread(target=lambda: found.append(other.json("fingerprints", "k", never)))

    def make() -> str:
        waiting.start()
        time.sleep(0.2)  # the other sees no entry yet, and waits
        return "made"

    assert maker.json("fingerprints", "k", make) == "made"
    waiting.join(30)  # the maker has not released it
    assert found == ["made"]


def test_what_fails_leaves_nothing_and_is_tried_again(tmp_path: Path) -> None:
    cache = Cache(tmp_path)

    def fail() -> dict[str, Tensor]:
        raise ValueError("calibration failed")

    with pytest.raises(ValueError, match="calibration failed"):
        cache.tensors("stats", "k", fail)
    assert entries(cache) == set()
    assert torch.equal(cache.tensors("stats", "k", ones)["x"], torch.ones(4))


# -- whole or not at all -------------------------------------------------------------------------


def test_a_torn_temporary_file_is_ignored(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.path("stats", "k", ".safetensors").with_name("k.safetensors.99.tmp").write_bytes(b"torn")
    assert torch.equal(cache.tensors("stats", "k", ones)["x"], torch.ones(4))


def test_a_durable_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "results" / "one.json"
    write_durably(path, "[1]")
    write_durably(path, json.dumps({"state": "complete"}))
    assert json.loads(path.read_text()) == {"state": "complete"}
    assert list(path.parent.iterdir()) == [path]


def test_a_write_that_fails_keeps_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "one.json"
    write_durably(path, "old")

    def full(_: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("trainables.core.cache.os.fsync", full)
    with pytest.raises(OSError, match="no space left"):
        write_durably(path, "new")
    assert path.read_text() == "old"


# -- the limit -----------------------------------------------------------------------------------


def filled(folder: Path, limit_kb: float, *keys: str) -> Cache:
    """Entries of 10 KB each, the first the least recently used."""
    cache = Cache(folder, limit_kb * KB / 1e9)
    for age, key in enumerate(keys):
        cache.tensors("models", key, bytes_of(10 * KB))
        used = time.time() - 1000 + age
        os.utime(cache.path("models", key, ".safetensors"), (used, used))
    cache.release()
    return cache


def test_beyond_the_limit_the_least_recently_used_goes_first(tmp_path: Path) -> None:
    cache = filled(tmp_path, 35, "a", "b", "c")
    cache.tensors("models", "a", never)  # used again
    cache.release()
    cache.tensors("models", "d", bytes_of(10 * KB))
    assert entries(cache) == {"a.safetensors", "c.safetensors", "d.safetensors"}


def test_what_a_trial_uses_is_never_deleted(tmp_path: Path) -> None:
    filled(tmp_path, 1000, "a", "b")
    user, other = Cache(tmp_path), Cache(tmp_path, 15 * KB / 1e9)
    held = user.tensors("models", "a", never)
    user.path("models", "a", ".safetensors")
    os.utime(user.path("models", "a", ".safetensors"), (1, 1))  # the least recently used
    other.tensors("models", "c", bytes_of(10 * KB))
    assert entries(other) == {"a.safetensors", "c.safetensors"}
    assert torch.equal(held["x"], torch.zeros(10 * KB, dtype=torch.uint8))
    user.release()
    other.release()
    other.tensors("models", "d", bytes_of(10 * KB))
    assert entries(other) == {"d.safetensors"}


def test_checkpoints_of_unfinished_work_are_never_deleted(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 5 * KB / 1e9)
    cache.tensors("checkpoints", "run", bytes_of(10 * KB))
    os.utime(cache.path("checkpoints", "run", ".safetensors"), (1, 1))
    cache.release()
    for key in "ab":
        cache.tensors("models", key, bytes_of(10 * KB))
        cache.release()
    assert entries(cache) == {"run.safetensors", "b.safetensors"}


def test_releasing_twice_is_harmless(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.tensors("stats", "k", ones)
    cache.release()
    cache.release()
    assert torch.equal(cache.tensors("stats", "k", never)["x"], torch.ones(4))


# -- what identifies things ----------------------------------------------------------------------


def test_a_digest_knows_plain_data_by_its_content() -> None:
    assert digest({"a": 1, "b": (1, 2)}) == digest({"b": [1, 2], "a": 1})
    assert digest("a", "b") != digest("ab")
    assert digest(1) != digest("1")
    assert len(digest()) == 16


def test_a_digest_of_tensors_sees_names_shapes_types_and_values() -> None:
    base = {"a": torch.tensor([1.0, 2.0])}
    others = [
        {"b": torch.tensor([1.0, 2.0])},
        {"a": torch.tensor([[1.0, 2.0]])},
        {"a": torch.tensor([1.0, 2.0], dtype=torch.float64)},
        {"a": torch.tensor([1.0, -2.0])},
        {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor(0)},
    ]
    found = [digest_tensors(one) for one in (base, *others)]
    assert len(set(found)) == len(found)
    assert digest_tensors({"a": torch.tensor([[1.0, 9.0], [2.0, 9.0]])[:, 0]}) == found[0]
