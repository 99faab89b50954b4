"""Several Ray nodes on this machine, in a process of their own, which takes orders by line."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
QUIET = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_worker_niceness": "0",  # or whatever else runs here starves the workers
}


class Nodes:
    """A head without CPUs; `add` starts a node, `kill` ends one as a power cut would."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.address = self._answer()

    def add(self, cpus: int, gpus: int = 0, **environment: str) -> int:
        """Start a node whose workers see these variables, with GPUs that are not there; returns its
        number."""
        return int(self._order({"cpus": cpus, "gpus": gpus, "environment": environment}))

    def kill(self, node: int | None = None) -> None:
        """Kill a node's raylet; without a number the head, and with it the cluster."""
        assert self._order({"kill": -1 if node is None else node}) == "killed"

    def _order(self, order: dict[str, object]) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("> "):
                return line[2:].strip()
        raise AssertionError("the cluster has ended")

    @property
    def environment(self) -> dict[str, str]:
        """What a driver needs to find it."""
        return {**QUIET, "RAY_ADDRESS": self.address}


@contextmanager
def nodes() -> Iterator[Nodes]:
    """A cluster, while open."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.support.cluster"],
        cwd=ROOT,
        env={**os.environ, **QUIET},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            yield Nodes(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()


def _serve() -> None:
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "include_dashboard": False}
    cluster = _patient(lambda: Cluster(initialize_head=True, head_node_args=head))
    _say(cluster.address)
    added = []
    for line in sys.stdin:
        order = json.loads(line)
        if "kill" in order:
            node = cluster.head_node if order["kill"] < 0 else added[order["kill"]]
            cluster.remove_node(node, allow_graceful=False)
            _say("killed")
            continue
        size = {"num_cpus": order["cpus"], "num_gpus": order["gpus"]}
        place = partial(cluster.add_node, **size, env_vars=order["environment"])
        added.append(_patient(place))
        _say(str(len(added) - 1))
    cluster.shutdown()


def _patient(start: Callable[[], Any]) -> Any:
    """Start something of Ray's, which gives a node half a minute; a busy machine takes longer."""
    for left in range(5, 0, -1):
        try:
            return start()
        except Exception as error:
            if "timed out" not in str(error) or left == 1:
                raise
    return None


def _say(text: str) -> None:
    sys.stdout.write(f"> {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    _serve()
