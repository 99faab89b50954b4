"""Ray: connecting to it, or starting it here, and letting Tune execute a plan.

Ray reads its environment when it is first imported, so it is imported here, inside functions.
"""

import contextlib
import os
import secrets
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.engine.shipping import shipment
from search.study.schema import Resources
from trainables.core.errors import UserError

if TYPE_CHECKING:
    from search.engine.nodes import Nodes

JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"

QUIET = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the ledger is ours
    "TUNE_GLOBAL_CHECKPOINT_S": "31536000",  # the journal is the truth
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # only long stages report a scheduler's metric
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_prestart_worker_first_driver": "0",  # Tune's environment differs, so it never takes those
}


LONGEST_TEMP = 40  # characters: Ray's sockets lie below it, and may have 107 in all


def ray_environment() -> None:
    """What Ray reads when it is first imported."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if len(tempfile.gettempdir()) > LONGEST_TEMP:
        os.environ.setdefault("RAY_TMPDIR", "/tmp")
    if "RAY_AUTH_MODE" in os.environ or "ray" in sys.modules:
        return
    if _local():
        # A token of our own: Ray's default would write one that later clusters then ask for.
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    elif _token_known():
        os.environ["RAY_AUTH_MODE"] = "token"  # a cluster started here asks for it


def _token_known() -> bool:
    named = "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ
    return named or Path("~/.ray/auth_token").expanduser().exists()


def _local() -> bool:
    return os.environ.get("RAY_ADDRESS", "local") in ("", "local")


@contextlib.contextmanager
def ray_cluster(
    wanted: Resources, phase: Callable[[str], None], modules: Sequence[str] = ()
) -> Iterator["Nodes"]:
    """Connect to Ray (RAY_ADDRESS, or start it here), and shut it down in the end.

    Args:
        modules: a user's own, which the nodes need too.

    Raises:
        UserError: no Ray, or on this machine alone no room for a trial.
    """
    ray_environment()
    local = _local()
    phase("starting Ray" if local else f"connecting to {os.environ['RAY_ADDRESS']}")
    if not local:
        _knock(os.environ["RAY_ADDRESS"])
    import ray

    from search.engine.nodes import Nodes

    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    with contextlib.ExitStack() as stack:
        if local:
            options |= {"address": "local", "include_dashboard": False}
        elif not in_a_job():
            folder = stack.enter_context(shipment(modules))
            options |= {"runtime_env": {"working_dir": str(folder)}}
        try:
            ray.init(**options)
        except Exception as error:  # of any kind: a node that takes too long is a plain one
            raise _no_ray(error) from error
        stack.callback(ray.shutdown)
        nodes = Nodes(wanted)
        if local:  # where no other node can join
            nodes.enough()
        yield nodes


def in_a_job() -> bool:
    """Whether `ray job submit` started this process: its working folder is Ray's own copy."""
    return JOB in os.environ


def refuse_lost_folder(folder: Path) -> None:
    """Refuse results in the folder that Ray makes for a job and deletes after it."""
    if in_a_job() and folder.absolute().is_relative_to(Path.cwd()):
        raise UserError(
            "storage: inside a Ray job, results in a relative folder are lost with the job",
            got=str(folder),
            do="give --storage an absolute folder that all nodes see, such as /shared/runs",
        )


def _knock(address: str) -> None:
    """See whether anybody listens there; Ray would try again for minutes."""
    if address.startswith("ray://"):
        raise UserError(
            "RAY_ADDRESS: Ray's client protocol cannot run a search",
            got=address,
            allowed='"auto" or "HOST:6379", on a machine of the cluster',
            do="run rayduce on the head node, with `ray exec` or `ray job submit`",
        )
    host, _, port = address.rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        except (OSError, OverflowError) as error:
            raise _no_ray(error) from error


def _no_ray(error: Exception) -> UserError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    if _local():
        return UserError(f"Ray did not start: {reason}")
    return UserError(
        f"no answer from Ray: {reason}",
        got=f"RAY_ADDRESS={os.environ['RAY_ADDRESS']}",
        do="check that the cluster runs there, and RAY_AUTH_MODE and its token; or unset "
        "RAY_ADDRESS to search on this machine",
    )
