"""Checks of this machine: packages, processor, GPUs, shared memory, data sets."""

import os
import platform
import shutil
from pathlib import Path

import torch

from raybd.engine.cluster.doctor.finding import (
    GIB,
    MIN_SHARED_MEMORY_BYTES,
    MORE_SHARED_MEMORY,
    Finding,
)
from raybd.results.provenance import versions
from raybd.training import precision


def machine_findings() -> list[Finding]:
    """Check this machine."""
    return [_packages(), _processor(), _gpus(), _shared_memory(), _data()]


def _packages() -> Finding:
    found = ", ".join(f"{name} {number}" for name, number in versions().items())
    return Finding("versions", True, found)


def _processor() -> Finding:
    bf16 = "yes" if precision.has_bf16() else "no"
    found = f"{os.cpu_count()} cores ({platform.machine()}), bf16: {bf16}"
    return Finding("processor", True, found)


def _gpus() -> Finding:
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return Finding("GPUs here", True, ", ".join(names) or "none: everything runs on the CPU")


def _shared_memory() -> Finding:
    # macOS has none, and Ray keeps its objects in files there.
    if not Path("/dev/shm").exists():
        return Finding("shared memory", True, "no /dev/shm on this system")
    free = shutil.disk_usage("/dev/shm").free
    hint = "" if free >= MIN_SHARED_MEMORY_BYTES else MORE_SHARED_MEMORY
    return Finding("shared memory", not hint, f"{free / GIB:.1f} GiB free", hint)


def _data() -> Finding:
    folder = os.environ.get("RAYBD_DATA")
    if not folder:
        found = "not set: digits works; other data sets are downloaded through torchvision"
        return Finding("RAYBD_DATA", True, found)
    if not Path(folder).is_dir():
        hint = "Set it to the folder that holds NAME/{train,test}.parquet."
        return Finding("RAYBD_DATA", False, f"{folder} is not a folder", hint)

    names = sorted(path.parent.name for path in Path(folder).glob("*/train.parquet"))
    return Finding("RAYBD_DATA", True, f"{folder}: {', '.join(names) or 'no data sets'}")
