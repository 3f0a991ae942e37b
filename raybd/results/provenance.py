"""What is written beside every number: versions, commit, device, memory."""

import logging
import os
import platform
import resource
import subprocess
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from raybd.distributed import group

log = logging.getLogger("raybd.provenance")


@cache
def versions() -> dict[str, str]:
    """What computed a row."""
    found = {"python": platform.python_version()}
    for package in ("raybd", "torch", "torchvision", "ray", "numpy", "scikit-learn"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@cache
def commit() -> str | None:
    """The commit of raybd's own checkout, if it runs from one; `+` marks uncommitted changes."""
    folder = Path(__file__).resolve().parent
    git = partial(
        subprocess.run, cwd=folder, capture_output=True, text=True, timeout=10, check=True
    )
    try:
        head = git(["git", "rev-parse", "--short=12", "HEAD"]).stdout.strip()
        return head + (
            "+" if git(["git", "status", "--porcelain", "--", "."]).stdout.strip() else ""
        )
    except (OSError, subprocess.SubprocessError):
        return None


def device_name() -> str:
    """The GPU that this process computes on, or the kind of processor."""
    device = group.device()
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu ({platform.machine()}, {os.cpu_count()} cores)"


def reset_peak_memory() -> None:
    """Worker processes are reused: begin a stage with a fresh high-water mark, where the system allows it."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        log.debug(
            "peak memory is that of the whole process: /proc/self/clear_refs can't be written"
        )


def peak_memory_bytes() -> int:
    """Largest resident memory of this process, or largest GPU memory where it computes on one."""
    if group.device().type == "cuda":
        return torch.cuda.max_memory_allocated()
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        log.debug("/proc/self/status can't be read; peak memory is that of the whole process")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
