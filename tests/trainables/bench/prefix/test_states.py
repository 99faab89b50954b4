"""Kept states: found as they were, bounded, and never in anybody's way."""

import os
from pathlib import Path

import pytest
import torch

from trainables.bench.prefix.states import States
from trainables.core.cache import Cache

KILO = {"h": torch.zeros(250)}  # 1,000 bytes, and a header


def test_what_is_kept_is_found_as_it_was(tmp_path: Path) -> None:
    states = States(tmp_path / "states", 10**6)
    wanted = {"h": torch.randn(2, 3).bfloat16(), "t": torch.arange(6).view(2, 3).T}
    assert states.find("a") is None and not states.has("a")
    states.keep("a", wanted)
    found = states.find("a")
    assert states.has("a") and found is not None and found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert found["h"].dtype == torch.bfloat16


def test_writing_in_what_was_found_changes_no_file(tmp_path: Path) -> None:
    states = States(tmp_path, 10**6)
    states.keep("a", {"h": torch.ones(4)})
    found, again = states.find("a"), states.find("a")
    assert found is not None and again is not None
    found["h"].add_(1)
    assert again["h"].tolist() == [1.0] * 4
    last = states.find("a")
    assert last is not None and last["h"].tolist() == [1.0] * 4


def test_the_least_recently_used_goes_and_who_holds_it_keeps_it(tmp_path: Path) -> None:
    states = States(tmp_path, 8 * 1100)
    for number in range(6):
        states.keep(str(number), {"h": torch.full((250,), float(number))})
        os.utime(tmp_path / f"{number}.safetensors", (number, number))
    held = states.find("1")  # used just now
    os.utime(tmp_path / "0.safetensors", (0, 0))
    for number in range(6, 10):
        states.keep(str(number), KILO)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= states.limit
    assert not states.has("0") and states.has("1") and states.has("9")
    (tmp_path / "1.safetensors").unlink()
    assert held is not None and held["h"].tolist() == [1.0] * 250


def test_what_is_too_large_or_cannot_be_written_is_not_kept(tmp_path: Path) -> None:
    small = States(tmp_path / "small", 500)
    small.keep("a", KILO)
    assert not small.has("a")
    (tmp_path / "file").write_text("in the way")
    blocked = States(tmp_path / "file", 10**6)
    blocked.keep("a", KILO)
    assert blocked.find("a") is None


def test_a_torn_file_is_not_found(tmp_path: Path) -> None:
    states = States(tmp_path, 10**6)
    states.keep("a", KILO)
    (tmp_path / "a.safetensors").write_bytes(b"torn")
    assert states.find("a") is None


@pytest.mark.parametrize("older", ["states", "stats"])
def test_the_cache_drops_states_before_all_else(older: str, tmp_path: Path) -> None:
    cache = Cache(tmp_path, limit_gb=5e-6)  # 5,000 bytes
    States.of(cache).keep("a", KILO)
    cache.tensors("stats", "b", lambda: KILO)
    cache.release()
    for kind in ("states", "stats"):
        (path,) = (tmp_path / kind).glob("*.safetensors")
        os.utime(path, (0, 0) if kind == older else (1, 1))
    cache.tensors("models", "c", lambda: {"w": torch.zeros(900)})
    assert not States.of(cache).has("a")
    assert cache.find_tensors("stats", "b") is not None
