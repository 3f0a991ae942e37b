"""Will it run? What raybd needs of a machine, a cluster and a store, checked before anything is scheduled."""

import os
import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from raybd import fit
from raybd.engine.cluster import connected
from raybd.provenance import versions
from raybd.store import Store, open_store
from raybd.types import UserError

_LEAST_DISK = 5 * 2**30
_LEAST_SHARED = 1 * 2**30


@dataclass(frozen=True)
class Finding:
    """One check."""

    check: str
    ok: bool
    found: str
    mend: str = ""


def examine(store_url: str, address: str | None = None) -> list[Finding]:
    """Run every check; none stops the others."""
    return [
        Finding("versions", True, ", ".join(f"{name} {number}" for name, number in versions().items())),
        Finding("processor", True, f"{os.cpu_count()} cores ({platform.machine()}), bf16: {'yes' if fit.has_bf16() else 'no'}"),
        _gpus(),
        _shared_memory(),
        _data(),
        _guarded("cluster", lambda: _cluster(address)),
        *_store(store_url),
    ]


def _gpus() -> Finding:
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return Finding("GPUs here", True, ", ".join(names) or "none: everything runs on the CPU")


def _shared_memory() -> Finding:
    if not Path("/dev/shm").exists():
        return Finding("shared memory", True, "no /dev/shm on this system")
    free = shutil.disk_usage("/dev/shm").free
    mend = "" if free >= _LEAST_SHARED else "Give the machine more: docker run --shm-size=4g, or a Memory emptyDir in Kubernetes."
    return Finding("shared memory", not mend, f"{free / 2**30:.1f} GiB free", mend)


def _data() -> Finding:
    folder = os.environ.get("RAYBD_DATA")
    if not folder:
        return Finding("RAYBD_DATA", True, "not set: digits works; other data sets are downloaded through torchvision")
    if not Path(folder).is_dir():
        return Finding("RAYBD_DATA", False, f"{folder} is no folder", "Set it to the folder that holds NAME/{train,test}.parquet.")
    found = sorted(path.parent.name for path in Path(folder).glob("*/train.parquet"))
    return Finding("RAYBD_DATA", True, f"{folder}: {', '.join(found) or 'no data sets'}")


def _cluster(address: str | None) -> Finding:
    with connected(address) as have:
        return Finding("cluster", True, f"{'at ' + address if address else 'on this machine'}: {have}")


def _store(url: str) -> Iterator[Finding]:
    def probe() -> Finding:
        store = open_store(url)
        store.probe()
        return Finding("store", True, f"{store.url} can be written and read")

    finding = _guarded("store", probe)
    yield finding
    if finding.ok:
        store = open_store(url)
        if store.local:
            free = shutil.disk_usage(store.root).free
            mend = "" if free >= _LEAST_DISK else "Free some space, or give another --store."
            yield Finding("disk", not mend, f"{free / 2**30:.0f} GiB free at the store", mend)
        yield _integrity(store)


def _integrity(store: Store) -> Finding:
    """Check every artefact and every row of the store; what is damaged is set aside."""
    artifacts = [(path.split("/")[1], path.split("/")[2]) for path in store.files("artifacts/*/*/manifest.json")]
    damaged = sum(state == "damaged" for state in store.states(artifacts).values())
    cells = [Path(path).stem for path in store.files("cells/*.parquet")]
    unsound = sum(store.cell(cell) is None for cell in cells)
    found = f"{len(artifacts)} artefacts and {len(cells)} cells checked, {damaged + unsound} damaged"
    mend = "They were set aside; run the experiment again to compute them anew." if damaged + unsound else ""
    return Finding("integrity", not mend, found, mend)


def _guarded(check: str, do: Callable[[], Finding]) -> Finding:
    try:
        return do()
    except UserError as error:
        return Finding(check, False, error.what, error.mend)
