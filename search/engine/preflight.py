"""Whether this machine can give a trial what a study asks for, without importing torch or ray."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from search.errors import StudyError
from search.study.schema import Resources
from trainables.core.errors import UserError

NVIDIA = Path("/proc/driver/nvidia/gpus")


def check_resources(resources: Resources) -> None:
    """Refuse what no trial could ever get here. On a cluster, Ray knows, once it is reached."""
    if os.environ.get("RAY_ADDRESS", "local") not in ("", "local"):
        return
    found = list(_missing(resources))
    if found:
        raise StudyError("this machine", found)


def _missing(resources: Resources) -> Iterator[UserError]:
    gpus, cpus, memory = gpu_count(), os.cpu_count() or 1, memory_gb()
    elsewhere = "or set RAY_ADDRESS to a cluster that has them"
    if resources.gpus > gpus:
        allowed = f"up to {gpus}" if gpus else "0, as there is no GPU here"
        yield UserError("resources.gpus", got=resources.gpus, allowed=allowed, do=elsewhere)
    if resources.cpus > cpus:
        allowed = f"up to {cpus}"
        yield UserError("resources.cpus", got=resources.cpus, allowed=allowed, do=elsewhere)
    if memory is not None and (resources.memory_gb or 0) > memory:
        allowed = f"up to {memory:.0f}"
        yield UserError("resources.memory_gb", got=resources.memory_gb, allowed=allowed)


def gpu_count() -> int:
    """The GPUs this process may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip() not in ("", "-1")])
    if NVIDIA.is_dir():
        return len(list(NVIDIA.iterdir()))
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return 0
    listed = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=30, check=False)
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


def memory_gb() -> float | None:
    """This machine's memory, where the system tells it."""
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
