"""What Ray says of a worker's death, and whose fault it is."""

import pytest

from search.engine.trouble import no_memory, node_lost, told_death

# As Ray 2.60 says it.
KILLED = (
    "The actor died unexpectedly before finishing this task.\n\tclass_name: Trial\n\tpid: 22870\n"
    "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker "
    "exit detail: Worker unexpectedly exits with a connection error code 2. End of file. Some "
    "common causes include: (1) the process was killed by the OOM killer due to high memory usage, "
    "(2) ray stop --force was called, or (3) the worker crashed unexpectedly due to SIGSEGV."
)
GONE = (
    "The actor 3c2aef34998ba4fe is unavailable: The actor is temporarily unavailable: RpcError: "
    "RPC error: Socket closed rpc_code: 14. The task may or may not have been executed."
)
NODE = "The actor died because its node has died. Node Id: c3a93398"
MEMORY = "Task was killed due to the node running low on memory.\nMemory on the node was 31.2GB"


@pytest.mark.parametrize(
    ("text", "memory", "node"),
    [(KILLED, False, False), (GONE, False, True), (NODE, False, True), (MEMORY, True, False)],
)
def test_a_death_is_of_memory_of_the_node_or_the_trials(
    text: str, memory: bool, node: bool
) -> None:
    error = RuntimeError(text)
    assert (no_memory(error), node_lost(error)) == (memory, node)


def test_a_death_in_a_line_is_what_is_known_of_it() -> None:
    said = told_death(RuntimeError(KILLED))
    assert said == "Worker unexpectedly exits with a connection error code 2. End of file"
    assert told_death(RuntimeError(NODE)) == NODE
    assert told_death(None) == "nothing is known"
