"""Ray: connecting to it, or starting it here, and letting Tune execute a plan.

Ray reads its environment when it is first imported, so it is imported here, inside functions.
"""

import contextlib
import os
import secrets
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from search.study.schema import Resources
from trainables.core.errors import UserError
from trainables.core.places import CHECKOUT

QUIET = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the ledger is ours
    "TUNE_GLOBAL_CHECKPOINT_S": "31536000",  # the journal is the truth
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # only long stages report a scheduler's metric
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_prestart_worker_first_driver": "0",  # Tune's environment differs, so it never takes those
}


def ray_environment() -> None:
    """What Ray reads when it is first imported."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
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
def ray_cluster(wanted: Resources, phase: Callable[[str], None]) -> Iterator[int]:
    """Connect to Ray (RAY_ADDRESS, or start it here); yields how many trials fit at once."""
    ray_environment()
    local = _local()
    phase("starting Ray" if local else f"connecting to {os.environ['RAY_ADDRESS']}")
    if not local:
        _knock(os.environ["RAY_ADDRESS"])
    import ray

    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if local:
        options |= {"address": "local", "include_dashboard": False}
    elif "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ:
        root = str(CHECKOUT)
        unwanted = ["mlflow/", ".git/", ".venv/", "runs/", "tests/"]
        options |= {"runtime_env": {"working_dir": root, "excludes": unwanted}}
    try:
        ray.init(**options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise _no_ray(error) from error
    try:
        yield _slots(wanted, ray.cluster_resources())
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """See whether anybody listens there; Ray would try again for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
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


def _slots(wanted: Resources, have: dict[str, float]) -> int:
    """How many trials fit at once."""
    fits = int(have.get("CPU", 0) / wanted.cpus)
    if wanted.gpus:
        fits = min(fits, int(have.get("GPU", 0) / wanted.gpus + 1e-9))  # 1 // 0.1 is 9
    if fits < 1:
        raise UserError(
            "resources: no node can hold a trial",
            got={"cpus": wanted.cpus, "gpus": wanted.gpus},
            allowed=f"{have.get('CPU', 0):g} CPUs and {have.get('GPU', 0):g} GPUs in all",
        )
    return min(fits, wanted.workers or fits)
