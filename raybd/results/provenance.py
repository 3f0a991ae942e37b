"""Provenance of a number: versions, commit, device, peak memory."""

import json
import logging
import os
import platform
import re
import resource
import subprocess
from collections.abc import Iterable, Mapping
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from raybd.distributed import group

_SEPARATOR = ", "
log = logging.getLogger("raybd.provenance")


@cache
def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that compute a row."""
    found = {"python": platform.python_version()}
    for package in ("raybd", "torch", "torchvision", "ray", "numpy", "scikit-learn"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def merged_versions(found: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Return the versions that computed the stages of a row; different ones stand side by side."""
    merged: dict[str, list[str]] = {}
    for one in found:
        for name, value in one.items():
            known = merged.setdefault(name, [])
            if value not in known:
                known.append(value)
    return {name: _SEPARATOR.join(values) for name, values in merged.items()}


def mixed_versions(texts: Iterable[str | None]) -> str | None:
    """Return one line if rows differ in the arithmetic that computed them; else None.

    `texts` are their columns `versions`. What is not recorded, as in older rows, does not count.
    """
    torches: set[str] = set()
    precisions: set[str] = set()
    for text in set(texts):
        row = _mapping(text)
        torches |= {".".join(one.split(".")[:2]) for one in _listed(row, "torch")}
        precisions |= set(_listed(row, "precision"))

    mixes = []
    if len(torches) > 1:
        by_number = sorted(torches, key=lambda one: [int(n) for n in re.findall(r"\d{1,9}", one)])
        mixes.append(f"by torch {' and '.join(by_number)}")
    if len(precisions) > 1:
        mixes.append(f"in {' and '.join(sorted(precisions))}")
    if not mixes:
        return None
    return f"these rows were computed {', '.join(mixes)}: small differences may come from that"


def _mapping(text: str | None) -> dict[str, Any]:
    """Return a column of JSON; empty if it is missing, or is no mapping."""
    try:
        # A frame holds None or NaN where a value is missing.
        found = json.loads(text) if isinstance(text, str) else {}
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _listed(row: Mapping[str, Any], name: str) -> list[str]:
    return str(row[name]).split(_SEPARATOR) if name in row else []


@cache
def commit() -> str | None:
    """Return the commit of raybd's checkout; None if it runs from an installed package.

    A `+` at the end marks uncommitted changes.
    """
    # The package, not the working folder, which may be another repository.
    folder = Path(__file__).resolve().parent
    git = partial(
        subprocess.run, cwd=folder, capture_output=True, text=True, timeout=10, check=True
    )
    try:
        head = git(["git", "rev-parse", "--short=12", "HEAD"]).stdout.strip()
        changes = git(["git", "status", "--porcelain", "--", "."]).stdout.strip()
        return f"{head}+" if changes else head
    except (OSError, subprocess.SubprocessError):
        return None


def device_name() -> str:
    """Return the name of the GPU that this process computes on, or the kind of processor."""
    device = group.device()
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu ({platform.machine()}, {os.cpu_count()} cores)"


def reset_peak_memory() -> None:
    """Reset the peak memory of this process, if the system allows it.

    Worker processes are reused, and a stage must not report the peak of an earlier stage.
    """
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        # 5 resets the peak of resident memory only, see proc(5).
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        log.debug("peak memory includes earlier stages: /proc/self/clear_refs can't be written")


def peak_memory_bytes() -> int:
    """Return the peak memory since the last reset, in bytes.

    This is GPU memory if the process computes on a GPU, else resident memory.
    """
    if group.device().type == "cuda":
        return torch.cuda.max_memory_allocated()
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        log.debug("peak memory includes earlier stages: /proc/self/status can't be read")

    # In KiB on Linux, since the process began.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
