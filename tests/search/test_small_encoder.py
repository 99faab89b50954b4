"""The packaged study that compares methods, from its launch to its table: minutes, real weights."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from trainables.core.places import CHECKOUT

STUDY = "spaces/studies/small-encoder-minilm.toml"


def rayduce(*arguments: str) -> str:
    command = [sys.executable, "-m", "search", *arguments]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.assets
@pytest.mark.timeout(1500)
def test_all_methods_and_their_chains_are_compared_as_they_are_saved(tmp_path: Path) -> None:
    rayduce("launch", STUDY, "--storage", str(tmp_path))
    text = rayduce("table", "small-encoder-minilm", "--storage", str(tmp_path))
    rows = json.loads((tmp_path / "small-encoder-minilm" / "comparison.json").read_text())
    assert len(rows) == 13 and all(row["same"] for row in rows)
    base, found = rows[0], {" > ".join(row["methods"]): row for row in rows}
    for word in ("distilled", "magnitude", "codebook", "int8", "mixed", "bfloat16"):
        assert any(word in method for method in found) and word in text
    assert sum(" > " in method for method in found) >= 3
    assert found["int8"]["size"] < 0.35 * base["size"]
    alone = [one for name, one in found.items() if name.startswith("magnitude") and ">" not in name]
    assert [one["size"] / base["size"] for one in alone] == [pytest.approx(1, abs=0.01)]
    assert "does not change size and memory" in text
