"""Where trials can run: the nodes of the Ray cluster, judged each by its own numbers.

The nodes are looked at again and again, so that one which joins is used. A node on which trials
keep failing for reasons of its own is avoided: Ray places no more workers there.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ray.tune import PlacementGroupFactory
from ray.util.placement_group import PlacementGroup, placement_group

from search.study.schema import Resources
from trainables.core.errors import UserError

STRIKES = 3  # failures in a row that are a node's own: then it is avoided
LOOK = 3.0  # seconds between two looks at the cluster
AVOIDED: set[str] = set()  # the ids of nodes that get no more workers; of this process's launch


class Elsewhere(PlacementGroupFactory):  # type: ignore[misc]
    """What a trial's worker needs, on any node that is not avoided when it is placed.

    Two of them with the same needs stay equal whatever is avoided, so that Tune reuses workers.
    """

    def to_placement_group(self) -> PlacementGroup:
        """Ask Ray for a place."""
        return placement_group(*self._bound.args, **self._bound.kwargs | avoiding(AVOIDED))


def avoiding(nodes: set[str]) -> dict[str, Any]:
    """How Ray is told to place a bundle on none of these nodes."""
    if not nodes:
        return {}
    return {"bundle_label_selector": [{"ray.io/node-id": f"!in({','.join(sorted(nodes))})"}]}


def bundle(wanted: Resources) -> dict[str, float]:
    """A trial's needs in Ray's words."""
    needs = {"CPU": float(wanted.cpus), "GPU": wanted.gpus, "memory": (wanted.memory_gb or 0) * 1e9}
    return {name: amount for name, amount in needs.items() if amount}


def fits(wanted: Resources, have: Mapping[str, float]) -> int:
    """How many trials one node can hold at a time."""
    return min(int(have.get(name, 0) / need + 1e-9) for name, need in bundle(wanted).items())


@dataclass
class Nodes:
    """The cluster's nodes, for trials that want so much each."""

    wanted: Resources
    strikes: dict[str, int] = field(default_factory=dict)  # by node id
    good: set[str] = field(default_factory=set)  # nodes where a worker has opened its bench
    _seen: list[dict[str, Any]] = field(default_factory=list)
    _looked: float = 0.0

    def __post_init__(self) -> None:
        AVOIDED.clear()

    def slots(self) -> int:
        """How many trials fit at once, now."""
        found = sum(fits(self.wanted, node["Resources"]) for node in self.usable())
        return min(found, self.wanted.workers or found)

    def works(self, node: str) -> None:
        """Note that things went well on a node."""
        self.good.add(node)
        self.strikes.pop(node, None)

    def strike(self, node: str) -> None:
        """Note a failure that was a node's own. One that never worked is avoided at once, one that
        did after some in a row, and where there are others."""
        self.strikes[node] = self.strikes.get(node, 0) + 1
        others = {one["NodeID"] for one in self.usable() if self._holds(one)} - {node}
        if node not in self.good or (others and self.strikes[node] >= STRIKES):
            AVOIDED.add(node)

    def left(self) -> bool:
        """Whether there is a node that can hold a trial and is not avoided."""
        return any(map(self._holds, self.usable()))

    def _holds(self, node: Mapping[str, Any]) -> bool:
        return fits(self.wanted, node["Resources"]) > 0

    def enough(self) -> int:
        """How many trials fit at once.

        Raises:
            UserError: none does.
        """
        if found := self.slots():
            return found
        raise self.lack()

    def lack(self) -> UserError:
        """That no node can hold a trial, and what each of them has."""
        have = [described(node["Resources"]) for node in self.usable()]
        return UserError(
            "resources: no node can hold a trial",
            got=described(bundle(self.wanted)),
            allowed=f"what one node has: {'; '.join(dict.fromkeys(have)) or 'no node is left'}",
        )

    def waiting(self) -> int:
        """Workers that Ray has no room for at the moment."""
        from ray.util import placement_group_table

        return sum(one["state"] == "PENDING" for one in placement_group_table().values())

    def usable(self) -> list[dict[str, Any]]:
        """The nodes that are alive and not avoided, as Ray tells of them."""
        import ray

        if not self._seen or time.monotonic() > self._looked + LOOK:
            self._seen, self._looked = ray.nodes(), time.monotonic()
        return [one for one in self._seen if one["Alive"] and one["NodeID"] not in AVOIDED]


def described(have: Mapping[str, float]) -> str:
    """What a node has, or a trial wants, in words."""
    memory = have.get("memory", 0) / 1e9
    parts = [f"{have.get('CPU', 0):g} CPUs", f"{have.get('GPU', 0):g} GPUs"]
    return ", ".join([*parts, f"{memory:.3g} GB of memory"] if memory else parts)
