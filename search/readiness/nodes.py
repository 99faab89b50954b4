"""The cluster's nodes: what each has, whether all have the same code and see the same folders."""

import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from search.engine.nodes import described, fits
from search.readiness.finding import Finding, Level
from search.study.schema import Resources
from trainables.core.places import git_commit

COMPARED = ("ray", "torch", "transformers", "torchao", "datasets", "optuna", "numpy")
ANSWER = 120.0  # seconds for a node; the first one installs what travels
ROOM = 5e9  # bytes: less free disk than this beside the cache is too little


@dataclass(frozen=True)
class Question:
    """What every node is asked.

    Attributes:
        marker: a file that the driver wrote, and what it says.
        seen: local paths that a trial reads.
        cache: the folder that trials write to.
    """

    marker: tuple[str, str]
    seen: tuple[str, ...]
    cache: str


@dataclass(frozen=True)
class Answer:
    """What a node says of itself."""

    host: str
    versions: Mapping[str, str]
    cards: tuple[tuple[str, float], ...]  # a name, its bytes of memory
    shared: bool
    unseen: tuple[str, ...]
    free: float  # bytes of disk where trials write


@dataclass(frozen=True)
class NodeReport:
    """A node as Ray knows it, and what it says, or why it says nothing."""

    resources: Mapping[str, float]
    address: str
    answer: Answer | None = None
    silence: str = ""
    findings: tuple[Finding, ...] = field(default=())


def probe(asked: Question) -> Answer:
    """Runs on a node, and looks."""
    shared = _says(Path(asked.marker[0])) == asked.marker[1]
    cache = Path(asked.cache) if shared else Path.home()
    return Answer(
        host=socket.gethostname(),
        versions=versions(),
        cards=cards(),
        shared=shared,
        unseen=tuple(path for path in asked.seen if not Path(path).exists()),
        free=free_bytes(cache),
    )


def versions() -> dict[str, str]:
    """Of Python, the libraries that decide results, and our own code."""
    found = {"python": sys.version.split()[0], "commit": git_commit() or "unknown"}
    for name in COMPARED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found


def cards() -> tuple[tuple[str, float], ...]:
    """This machine's NVIDIA cards, asked without taking one."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    asked = [tool, "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    found = subprocess.run(asked, capture_output=True, text=True, timeout=30, check=False)
    rows = [line.rpartition(",") for line in found.stdout.splitlines() if "," in line]
    return tuple((name.strip(), float(size) * 2**20) for name, _, size in rows)


def free_bytes(folder: Path) -> float:
    """Free disk where a folder is, or will be."""
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    return float(shutil.disk_usage(place).free)


def _says(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return None


def ask(nodes: Sequence[Mapping[str, Any]], asked: Question) -> list[NodeReport]:
    """Put the question to every node at once; those that are busy answer too."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0, max_retries=0)(probe)
    sent = [
        task.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(asked)
        for node in nodes
    ]
    ray.wait(sent, num_returns=len(sent), timeout=ANSWER)
    return [_heard(node, one) for node, one in zip(nodes, sent, strict=True)]


def _heard(node: Mapping[str, Any], sent: Any) -> NodeReport:
    import ray

    have, where = node["Resources"], node["NodeManagerAddress"]
    try:
        return NodeReport(have, where, ray.get(sent, timeout=0.1))
    except Exception as error:  # whatever starting a worker there raised
        lines = str(error).strip().splitlines() or ["no answer"]
        return NodeReport(have, where, silence=f"{type(error).__name__}: {lines[-1]}")


# -- what is said of them ----------------------------------------------------------------------


def judge(reports: Sequence[NodeReport], wanted: Resources, cache_gb: float) -> Iterator[Finding]:
    """What is right and wrong with the nodes."""
    for one in reports:
        yield _resources(one, wanted)
    answers = [one.answer for one in reports if one.answer is not None]
    yield from _room(reports, wanted)
    yield from _versions(answers)
    yield _shared(answers)
    yield from _unseen(answers)
    for answer in answers:
        level: Level = "ok" if answer.free > cache_gb * 1e9 + ROOM else "warning"
        said = f"{answer.free / 1e9:.0f} GB free where trials write"
        do = f"make room: the cache takes up to {cache_gb:g} GB (storage.cache_gb)"
        yield Finding(f"disk of {answer.host}", level, said, do)


def _resources(one: NodeReport, wanted: Resources) -> Finding:
    have = described(one.resources)
    if one.answer is None:
        do = "see its logs in /tmp/ray/session_latest/logs"
        return Finding(f"node {one.address}", "missing", f"{have}, but {one.silence}", do)
    named = ", ".join(dict.fromkeys(f"{n} {size / 2**30:.0f} GiB" for n, size in one.answer.cards))
    told = f"{have}{f' ({named})' if named else ''}, {fits(wanted, one.resources)} trials at once"
    real, said = len(one.answer.cards), one.resources.get("GPU", 0)
    if wanted.gpus and real < said:
        do = "start Ray there with --num-gpus as many as nvidia-smi lists"
        return Finding(f"node {one.answer.host}", "warning", f"{told}; {real} cards found", do)
    return Finding(f"node {one.answer.host}", "ok", told)


def _room(reports: Sequence[NodeReport], wanted: Resources) -> Iterator[Finding]:
    slots = sum(fits(wanted, one.resources) for one in reports if one.answer is not None)
    slots = min(slots, wanted.workers or slots)
    if slots:
        yield Finding("room", "ok", f"{slots} trials at once")
    else:
        do = "ask for less with --gpus, --cpus or resources.memory_gb, or add such a node"
        yield Finding("room", "missing", "no node can hold a trial", do)
    named = {name for one in reports if one.answer for name, _ in one.answer.cards}
    if wanted.gpus and len(named) > 1:
        do = "compare times of one kind only: start Ray with --num-gpus 0 on the others"
        yield Finding("cards", "warning", f"{len(named)} kinds: {', '.join(sorted(named))}", do)


def _versions(answers: Sequence[Answer]) -> Iterator[Finding]:
    here = versions()
    for name in here:
        said = {one.host: one.versions.get(name, "none") for one in answers}
        other = {host: text for host, text in said.items() if text != here[name]}
        if other and name != "commit":  # the driver's own code travels along
            told = ", ".join(f"{text} on {host}" for host, text in sorted(other.items()))
            do = "install the same there: pip install -c constraints.txt -e ."
            yield Finding(f"version of {name}", "missing", f"{here[name]} here, {told}", do)
    if answers and all(
        one.versions.get(name) == here[name] for one in answers for name in here if name != "commit"
    ):
        told = ", ".join(f"{name} {here[name]}" for name in ("python", "ray", "torch"))
        yield Finding("versions", "ok", f"the same on all nodes: {told}, ...")


def _shared(answers: Sequence[Answer]) -> Finding:
    blind = sorted(one.host for one in answers if not one.shared)
    if not blind:
        return Finding("results' folder", "ok", "seen by all nodes")
    said = f"not seen by {', '.join(blind)}: their results travel through Ray, each with a cache"
    return Finding("results' folder", "warning", said, "give --storage a folder that all nodes see")


def _unseen(answers: Sequence[Answer]) -> Iterator[Finding]:
    for path in dict.fromkeys(path for one in answers for path in one.unseen):
        hosts = ", ".join(sorted(one.host for one in answers if path in one.unseen))
        do = "put it where all nodes see it, or name a hub id"
        yield Finding(f"path {path}", "missing", f"not there on {hosts}", do)
