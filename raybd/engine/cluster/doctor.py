"""Will it run? What raybd needs of a machine, a cluster and a store, checked before anything is scheduled."""

import os
import platform
import shutil
import socket
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import GetTimeoutError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raybd.engine.cluster.connect import connected
from raybd.results.provenance import versions
from raybd.results.store import Store, open_store
from raybd.training import precision
from raybd.types.errors import UserError

_LEAST_DISK = 5 * 2**30
_LEAST_SHARED = 1 * 2**30
_ANSWER_SECONDS = 60.0
_MORE_SHARED = (
    "Give the machine more: docker run --shm-size=4g, or a Memory emptyDir in Kubernetes."
)
_SAME = ("python", "ray", "torch", "raybd")
"""What must have the same version on every node."""


@dataclass(frozen=True)
class Finding:
    """One check."""

    check: str
    ok: bool
    found: str
    hint: str = ""


def examine(store_url: str, address: str | None = None) -> list[Finding]:
    """Run every check; none stops the others."""
    return [
        Finding(
            "versions", True, ", ".join(f"{name} {number}" for name, number in versions().items())
        ),
        Finding(
            "processor",
            True,
            f"{os.cpu_count()} cores ({platform.machine()}), bf16: {'yes' if precision.has_bf16() else 'no'}",
        ),
        _gpus(),
        _shared_memory(),
        _data(),
        *_cluster(address, store_url),
        *_store(store_url),
    ]


def check_store_everywhere(store: Store) -> None:
    """Every node must write where the driver reads, and read what it wrote. Raises UserError (exit code 3) that names the node."""
    for finding in _reach_findings(store):
        if not finding.ok:
            raise UserError(f"{finding.check}: {finding.found}", finding.hint, exit_code=3)


def _gpus() -> Finding:
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return Finding("GPUs here", True, ", ".join(names) or "none: everything runs on the CPU")


def _shared_memory() -> Finding:
    if not Path("/dev/shm").exists():
        return Finding("shared memory", True, "no /dev/shm on this system")
    free = shutil.disk_usage("/dev/shm").free
    hint = "" if free >= _LEAST_SHARED else _MORE_SHARED
    return Finding("shared memory", not hint, f"{free / 2**30:.1f} GiB free", hint)


def _data() -> Finding:
    folder = os.environ.get("RAYBD_DATA")
    if not folder:
        return Finding(
            "RAYBD_DATA",
            True,
            "not set: digits works; other data sets are downloaded through torchvision",
        )
    if not Path(folder).is_dir():
        return Finding(
            "RAYBD_DATA",
            False,
            f"{folder} is no folder",
            "Set it to the folder that holds NAME/{train,test}.parquet.",
        )
    found = sorted(path.parent.name for path in Path(folder).glob("*/train.parquet"))
    return Finding("RAYBD_DATA", True, f"{folder}: {', '.join(found) or 'no data sets'}")


def _cluster(address: str | None, store_url: str) -> Iterator[Finding]:
    try:
        with connected(address) as have:
            yield Finding(
                "cluster", True, f"{'at ' + address if address else 'on this machine'}: {have}"
            )
            yield largest_group([node["Resources"] for node in _alive()])
            if address or have.nodes > 1:
                gpus = {_name(node): _gpus_of(node["Resources"]) for node in _alive()}
                for node, facts in _on_every_node(_facts).items():
                    yield from _node(node, gpus.get(node, ""), facts)
            if have.nodes > 1:
                yield from _reached_from_everywhere(store_url)
    except UserError as error:
        yield Finding("cluster", False, error.what, error.hint)


def largest_group(nodes: Sequence[Mapping[str, float]]) -> Finding:
    """How many workers of one stage these nodes can hold: a worker never spans two of them."""
    on_cpu = sum(int(node.get("CPU", 0)) for node in nodes)
    on_gpu = sum(int(min(node.get("CPU", 0), node.get("GPU", 0))) for node in nodes)
    found = f"up to {on_cpu} workers with 1 CPU each" + (
        f", or {on_gpu} with 1 CPU and 1 GPU each" if on_gpu else ""
    )
    hint = (
        "" if on_cpu else "No node has a CPU to give: add one with `ray start --address=HEAD:6379`."
    )
    return Finding("largest group", not hint, found, hint)


@ray.remote(num_cpus=0, max_retries=0)
def _facts() -> dict[str, Any]:
    """What a node is like."""
    shared = Path("/dev/shm")
    return {
        "versions": versions(),
        "cuda": _has_cuda(),
        "disk": shutil.disk_usage(tempfile.gettempdir()).free,
        "shared": shutil.disk_usage(shared).free if shared.exists() else None,
    }


def _has_cuda() -> bool:
    """Apart from `_facts`: Ray pickles a task with the modules that it names, and can't pickle this one."""
    return bool(torch.backends.cuda.is_built())


@ray.remote(num_cpus=0, max_retries=0)
def _reach(store: Store, mark: str) -> str:
    """Read the driver's mark and leave one of this node's own; returns its path."""
    store.read(mark)
    own = f"{mark}-{uuid.uuid4().hex}"
    store.write(own, socket.gethostname().encode())
    return own


def _on_every_node(task: Any, *arguments: Any) -> dict[str, Any]:
    """What a task answers on each node, or the error that it raised there."""
    refs = {
        _name(node): task.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(*arguments)
        for node in _alive()
    }
    ray.wait(list(refs.values()), num_returns=len(refs), timeout=_ANSWER_SECONDS)
    return {name: _answer(ref) for name, ref in refs.items()}


def _alive() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _name(node: Mapping[str, Any]) -> str:
    return f"{node['NodeManagerAddress']} ({node['NodeID'][:8]})"


def _gpus_of(resources: Mapping[str, float]) -> str:
    """What Ray knows of a node's GPUs; a task that asks for none can't see them."""
    kinds = [name.partition(":")[2] for name in resources if name.startswith("accelerator_type:")]
    return " ".join([f"{resources['GPU']:g}", *kinds]) if resources.get("GPU") else ""


def _answer(ref: Any) -> Any:
    try:
        return ray.get(ref, timeout=0)
    except GetTimeoutError:
        return TimeoutError(
            f"no answer within {_ANSWER_SECONDS:.0f} s: the node is overloaded, or gone"
        )
    except Exception as error:
        return getattr(error, "cause", None) or error


def _node(node: str, gpus: str, facts: Any) -> Iterator[Finding]:
    """A line about a node, and one for each problem that it has."""
    check = f"node {node}"
    if isinstance(facts, Exception):
        yield Finding(
            check,
            False,
            f"runs no task of raybd: {_say(facts)}",
            "Install raybd there as it is here; see `ray status`.",
        )
        return
    here, there = versions(), facts["versions"]
    what = ", ".join(f"{name} {there.get(name, 'missing')}" for name in _SAME)
    shared = "" if facts["shared"] is None else f", {facts['shared'] / 2**30:.1f} GiB shared memory"
    yield Finding(
        check,
        True,
        f"{what}; GPUs: {gpus or 'none'}; {facts['disk'] / 2**30:.0f} GiB free disk{shared}",
    )
    for name in _SAME:
        if there.get(name) != here.get(name):
            found = f"{name} {there.get(name, 'is missing')} there, {here.get(name, 'none')} here"
            yield Finding(check, False, found, f"Install the same {name} on every node.")
    if gpus and not facts["cuda"]:
        yield Finding(
            check,
            False,
            f"has GPUs ({gpus}) that its torch can't use",
            "Install the CUDA build of torch there.",
        )
    if facts["disk"] < _LEAST_DISK:
        yield Finding(
            check,
            False,
            f"{facts['disk'] / 2**30:.1f} GiB free disk",
            "Free some space: Ray spills objects there.",
        )
    if facts["shared"] is not None and facts["shared"] < _LEAST_SHARED:
        yield Finding(
            check, False, f"{facts['shared'] / 2**30:.1f} GiB shared memory", _MORE_SHARED
        )


def _reached_from_everywhere(store_url: str) -> Iterator[Finding]:
    try:
        yield from _reach_findings(open_store(store_url))
    except (UserError, OSError):
        return  # `_store` says what is wrong with it here


def _reach_findings(store: Store) -> list[Finding]:
    mark = f".probe-{uuid.uuid4().hex}"
    store.write(mark, b"raybd")
    try:
        return [
            _reach_finding(node, answer, store)
            for node, answer in _on_every_node(_reach, store, mark).items()
        ]
    finally:
        store.remove(mark)


def _reach_finding(node: str, answer: Any, store: Store) -> Finding:
    """Whether a node and the driver see the same store."""
    check = f"store from {node}"
    if isinstance(answer, FileNotFoundError):
        answer = None
    elif isinstance(answer, Exception):
        return Finding(
            check,
            False,
            f"{store.url}: {_say(answer)}",
            "Make it readable and writable there; check its credentials.",
        )
    elif store.exists(answer):
        store.remove(answer)
        return Finding(
            check, True, "reads what this machine writes, and this machine reads what it writes"
        )
    found = f"{store.url} is another place there than here"
    return Finding(
        check,
        False,
        found,
        "Give a --store that all nodes share: a folder that each of them mounts, or s3://.",
    )


def _say(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[-1] if str(error).strip() else ''}"


def _store(url: str) -> Iterator[Finding]:
    def probe() -> Finding:
        store = open_store(url)
        store.check_writable()
        return Finding("store", True, f"{store.url} can be written and read")

    finding = _guarded("store", probe)
    yield finding
    if finding.ok:
        store = open_store(url)
        if store.local:
            free = shutil.disk_usage(store.root).free
            hint = "" if free >= _LEAST_DISK else "Free some space, or give another --store."
            yield Finding("disk", not hint, f"{free / 2**30:.0f} GiB free at the store", hint)
        yield _integrity(store)


def _integrity(store: Store) -> Finding:
    """Check every artefact and every row of the store; what is damaged is set aside."""
    artifacts = [
        (path.split("/")[1], path.split("/")[2])
        for path in store.files("artifacts/*/*/manifest.json")
    ]
    damaged = sum(state == "damaged" for state in store.states(artifacts).values())
    cells = [Path(path).stem for path in store.files("cells/*.parquet")]
    unsound = sum(store.cell(cell) is None for cell in cells)
    found = (
        f"{len(artifacts)} artefacts and {len(cells)} cells checked, {damaged + unsound} damaged"
    )
    hint = (
        "They were set aside; run the experiment again to compute them anew."
        if damaged + unsound
        else ""
    )
    return Finding("integrity", not hint, found, hint)


def _guarded(check: str, do: Callable[[], Finding]) -> Finding:
    try:
        return do()
    except UserError as error:
        return Finding(check, False, error.what, error.hint)
