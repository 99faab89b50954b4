"""What is said of a cluster's nodes before the first trial."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from search.readiness.finding import Finding, ready
from search.readiness.memory import against
from search.readiness.nodes import Answer, NodeReport, Question, cards, judge, probe, versions
from search.study.schema import Resources

CARD = ("NVIDIA RTX A6000", 48.0 * 2**30)
GOOD = Answer("one", versions(), (CARD, CARD), True, (), 500e9)
WANTED = Resources(gpus=1.0, cpus=2)
HAVE = {"CPU": 16.0, "GPU": 2.0, "memory": 200e9}


def report(answer: Answer | None, silence: str = "", **have: float) -> NodeReport:
    return NodeReport({**HAVE, **have}, "192.0.2.10", answer, silence)


def lines(reports: Sequence[NodeReport], wanted: Resources = WANTED) -> dict[str, Finding]:
    return {one.what: one for one in judge(reports, wanted, cache_gb=20.0)}


def test_a_cluster_that_has_everything() -> None:
    found = lines([report(GOOD), report(replace(GOOD, host="two"))])
    assert {one.level for one in found.values()} == {"ok"}
    assert found["room"].said == "4 trials at once"
    assert "NVIDIA RTX A6000 48 GiB), 2 trials at once" in found["node one"].said
    assert ready(list(found.values()))


def test_workers_of_the_study_are_the_most() -> None:
    found = lines([report(GOOD)], Resources(gpus=1.0, workers=1))
    assert found["room"].said == "1 trials at once"


def test_shares_of_a_card() -> None:
    assert lines([report(GOOD)], Resources(gpus=0.5))["room"].said == "4 trials at once"


@pytest.mark.parametrize(
    ("answer", "have", "what", "level", "words"),
    [
        (replace(GOOD, versions={**versions(), "torch": "2.1"}), {}, "version of torch", "missing",
         "2.1 on one"),
        (replace(GOOD, shared=False), {}, "results' folder", "warning", "not seen by one"),
        (replace(GOOD, unseen=("/data/x.csv",)), {}, "path /data/x.csv", "missing", "on one"),
        (replace(GOOD, free=3e9), {}, "disk of one", "warning", "3 GB free"),
        (replace(GOOD, cards=(CARD,)), {}, "node one", "warning", "1 cards found"),
        (replace(GOOD, cards=(CARD, ("NVIDIA L4", 24e9))), {}, "cards", "warning",
         "2 kinds: NVIDIA L4, NVIDIA RTX A6000"),
        (GOOD, {"GPU": 0.0}, "room", "missing", "no node can hold a trial"),
    ],
)  # fmt: skip
def test_each_lack_is_a_line(
    answer: Answer, have: dict[str, float], what: str, level: str, words: str
) -> None:
    found = lines([report(answer, **have)])[what]
    assert (found.level, words in found.said) == (level, True), found
    assert found.do and found.do in found.line()


def test_a_node_that_does_not_answer_holds_no_trial() -> None:
    found = lines([report(None, "RaySystemError: no such file")])
    assert "RaySystemError: no such file" in found["node 192.0.2.10"].said
    assert found["room"].level == "missing"


def test_another_commit_on_a_node_is_no_lack_as_the_drivers_code_travels() -> None:
    found = lines([report(replace(GOOD, versions={**versions(), "commit": "another"}))])
    assert found["versions"].level == "ok"


def test_a_probe_says_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "marker").write_text("mark")
    marker = (str(tmp_path / "marker"), "mark")
    gone = str(tmp_path / "gone")
    said = probe(Question(marker, (str(tmp_path), gone), str(tmp_path / "cache")))
    assert said.shared and said.unseen == (gone,) and said.free > 0
    assert said.versions == versions() and said.cards == cards()
    assert not probe(Question((gone, "mark"), (), gone)).shared
    assert not probe(Question((marker[0], "other"), (), gone)).shared


@pytest.mark.parametrize(
    ("most", "gpus", "level"),
    [(40e9, 1.0, "ok"), (40e9, 0.5, "missing"), (20e9, 0.5, "ok"), (60e9, 1.0, "missing"),
     (60e9, 0.0, "ok"), (60e9, 2.0, "missing")],
)  # fmt: skip
def test_a_trials_memory_is_held_against_its_share_of_the_smallest_card(
    most: float, gpus: float, level: str
) -> None:
    found = against("weights 16.1", most, [80e9, 48e9], gpus)
    assert found.level == level and f"about {most / 1e9:.1f} GB (weights 16.1)" in found.said
