"""Where trials fit: node by node, by the nodes' own numbers."""

from typing import Any

import pytest

from search.engine.nodes import AVOIDED, STRIKES, Elsewhere, Nodes, avoiding, bundle
from search.study.schema import Resources
from trainables.core.errors import UserError

GB = 1e9


def cluster(monkeypatch: pytest.MonkeyPatch, *nodes: dict[str, float], **wanted: Any) -> Nodes:
    """A cluster of these nodes, called n0, n1 ..., for trials that want so much."""
    listed = [
        {"NodeID": f"n{index}", "Alive": True, "Resources": node}
        for index, node in enumerate(nodes)
    ]
    monkeypatch.setattr("ray.nodes", lambda: listed)
    monkeypatch.setattr("search.engine.nodes.LOOK", -1.0)
    return Nodes(Resources(**wanted))


@pytest.mark.parametrize(
    ("wanted", "nodes", "slots"),
    [
        ({"cpus": 1}, [{"CPU": 2.0}], 2),
        ({"cpus": 3}, [{"CPU": 8.0}], 2),
        ({"cpus": 3}, [{"CPU": 4.0}, {"CPU": 4.0}], 2),  # 8 CPUs in all hold two, not more
        ({"cpus": 3}, [{"CPU": 2.0}, {"CPU": 2.0}], 0),
        ({"cpus": 1, "gpus": 0.5}, [{"CPU": 16.0, "GPU": 4.0}], 8),
        ({"cpus": 1, "gpus": 0.1}, [{"CPU": 16.0, "GPU": 1.0}], 10),
        ({"cpus": 1, "gpus": 2}, [{"CPU": 16.0, "GPU": 1.0}, {"CPU": 4.0, "GPU": 3.0}], 1),
        ({"cpus": 2, "gpus": 1}, [{"CPU": 64.0}, {"CPU": 8.0, "GPU": 2.0}], 2),  # a head without
        ({"memory_gb": 10}, [{"CPU": 8.0, "memory": 25 * GB}, {"CPU": 8.0, "memory": 9 * GB}], 2),
        ({"cpus": 1, "workers": 3}, [{"CPU": 16.0}], 3),
    ],
)
def test_trials_fit_on_nodes_and_not_on_their_sum(
    wanted: dict[str, Any],
    nodes: list[dict[str, float]],
    slots: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert cluster(monkeypatch, *nodes, **wanted).slots() == slots


def test_a_trial_that_fits_nowhere_is_said_with_what_the_nodes_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nodes = cluster(monkeypatch, {"CPU": 2.0}, {"CPU": 4.0, "GPU": 1.0}, gpus=2)
    with pytest.raises(UserError, match="no node can hold a trial") as said:
        nodes.enough()
    for part in ("1 CPUs, 2 GPUs", "2 CPUs, 0 GPUs; 4 CPUs, 1 GPUs"):
        assert part in str(said.value)


def test_a_node_that_joins_counts_and_one_that_dies_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nodes = cluster(monkeypatch, {"CPU": 2.0})
    assert nodes.slots() == 2
    joined = {"NodeID": "n1", "Alive": True, "Resources": {"CPU": 3.0}}
    dead = {"NodeID": "n0", "Alive": False, "Resources": {"CPU": 2.0}}
    monkeypatch.setattr("ray.nodes", lambda: [dead, joined])
    assert nodes.slots() == 3


def test_a_node_that_never_worked_is_avoided_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = cluster(monkeypatch, {"CPU": 2.0}, {"CPU": 3.0})
    nodes.strike("n0")
    assert (nodes.slots(), nodes.left()) == (3, True)
    nodes.strike("n1")
    assert not nodes.left()
    assert "no node is left" in str(nodes.lack())
    assert cluster(monkeypatch, {"CPU": 2.0}).left()  # another launch forgives


def test_a_node_that_worked_is_avoided_after_failures_in_a_row_where_there_are_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nodes = cluster(monkeypatch, {"CPU": 2.0}, {"CPU": 1.0})
    nodes.works("n0")
    for _ in range(2):
        for _ in range(STRIKES - 1):
            nodes.strike("n0")
        assert nodes.slots() == 3
        nodes.works("n0")
    for _ in range(STRIKES):
        assert "n0" not in AVOIDED
        nodes.strike("n0")
    assert nodes.slots() == 1
    nodes.works("n1")
    for _ in range(STRIKES):
        nodes.strike("n1")
    assert nodes.slots() == 1  # the last one is not given up: its trouble may pass


def test_a_request_stays_the_same_whatever_is_avoided(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(
        "search.engine.nodes.placement_group", lambda *args, **kwargs: asked.append(kwargs)
    )
    AVOIDED.clear()
    one, other = (Elsewhere([bundle(Resources(cpus=2))]) for _ in range(2))
    one.to_placement_group()
    AVOIDED.update(("n1", "n0"))
    other.to_placement_group()
    AVOIDED.clear()
    assert one == other and hash(one) == hash(other)
    assert "bundle_label_selector" not in asked[0]
    assert asked[1]["bundle_label_selector"] == [{"ray.io/node-id": "!in(n0,n1)"}]
    assert avoiding(set()) == {}
