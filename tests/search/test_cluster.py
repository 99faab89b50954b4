"""A study on several nodes: code that travels, nodes that join, and one without what it needs."""

import subprocess
from pathlib import Path

import pytest
from optuna.trial import TrialState

from tests.support.cluster import nodes
from tests.support.launches import Driver, tiny_study

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

SCORES = """
import os, time
from my_words import NAME

def score(made):
    time.sleep(1.0)
    if os.environ.get(NAME):
        raise FileNotFoundError("/data/scores.txt")
    return float(os.environ.get("NODE_NUMBER", 0))
"""


def study_with_code(folder: Path) -> Path:
    """A study whose metric stands beside it, in two files."""
    (folder / "my_scores.py").write_text(SCORES)
    (folder / "my_words.py").write_text('NAME = "NODE_WITHOUT_DATA"\n')
    file = tiny_study(folder)
    file.write_text(file.read_text().replace("tests.support.slow_metric:pause", "my_scores:score"))
    return file


def waits_for(process: "subprocess.Popen[str]", words: str) -> str:
    """What a driver says until it says these words."""
    said = ""
    assert process.stdout is not None
    while words not in said:
        line = process.stdout.readline()
        assert line, said
        said += line
    return said


def test_nodes_that_join_are_used_and_one_without_the_data_is_avoided(tmp_path: Path) -> None:
    study = study_with_code(tmp_path)
    with nodes() as cluster:
        driver = Driver(tmp_path, **cluster.environment)
        process = driver.start("launch", str(study), "--trials", "24")
        begun = waits_for(process, "no node can hold a trial")
        cluster.add(1, NODE_NUMBER="1")
        begun += waits_for(process, "trial 2 ")
        cluster.add(1, NODE_WITHOUT_DATA="1")
        cluster.add(1, NODE_NUMBER="2")
        said, _ = process.communicate(timeout=400)
        assert process.returncode == 0, said
    assert "waiting for one that can" in begun
    assert "FileNotFoundError: /data/scores.txt (my_scores.py:" in said
    rows = driver.rows()
    assert [row.state for row in rows] == [TrialState.COMPLETE] * 25
    numbers = {row.user_attrs["record"]["metrics"]["pause"] for row in rows}
    assert numbers == {1.0, 2.0}
