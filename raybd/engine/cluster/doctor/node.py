"""Checks of the nodes of the connected cluster."""

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import GetTimeoutError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raybd.engine.cluster.doctor.finding import (
    GIB,
    MIN_DISK_BYTES,
    MIN_SHARED_MEMORY_BYTES,
    MORE_SHARED_MEMORY,
    Finding,
    error_text,
)
from raybd.results.provenance import versions

ANSWER_SECONDS = 60.0
"""How long a node may take to answer."""
# Tasks and results travel as pickles, and numbers depend on what computes them.
SAME_VERSIONS = ("python", "ray", "torch", "raybd")
"""What must have the same version on every node."""


def cluster_findings() -> Iterator[Finding]:
    """Check each node of the connected cluster."""
    gpus = {_node_name(node): _gpus(node["Resources"]) for node in alive_nodes()}
    for name, facts in on_every_node(_node_facts).items():
        yield from node_findings(name, gpus.get(name, ""), facts)


def largest_group(nodes: Sequence[Mapping[str, float]]) -> Finding:
    """Return how many workers of one stage nodes with these resources can hold.

    A worker never spans two nodes.
    """
    on_cpu = sum(int(node.get("CPU", 0)) for node in nodes)
    # A worker on a GPU takes a CPU, too.
    on_gpu = sum(int(min(node.get("CPU", 0), node.get("GPU", 0))) for node in nodes)
    found = f"up to {on_cpu} workers with 1 CPU each"
    if on_gpu:
        found += f", or {on_gpu} with 1 CPU and 1 GPU each"
    hint = "" if on_cpu else "No node has a CPU: add one with `ray start --address=HEAD:6379`."
    return Finding("largest group", not hint, found, hint)


def node_findings(node: str, gpus: str, facts: Any) -> Iterator[Finding]:
    """Check the facts of a node: a line about it, and one for each problem.

    `gpus` are the GPUs that Ray knows of; `facts` may be the error that the node answered with.
    """
    check = f"node {node}"
    # Without facts there is nothing further to check.
    if isinstance(facts, Exception):
        found = f"runs no task of raybd: {error_text(facts)}"
        hint = "Install raybd there as it is here; see `ray status`."
        yield Finding(check, False, found, hint)
        return

    yield Finding(check, True, _summary(gpus, facts))
    yield from _version_problems(check, facts["versions"])
    if gpus and not facts["cuda"]:
        found = f"has GPUs ({gpus}) that its torch can't use"
        yield Finding(check, False, found, "Install the CUDA build of torch there.")
    if facts["disk"] < MIN_DISK_BYTES:
        found = f"{facts['disk'] / GIB:.1f} GiB free disk"
        yield Finding(check, False, found, "Free some space: Ray spills objects there.")
    if facts["shared"] is not None and facts["shared"] < MIN_SHARED_MEMORY_BYTES:
        found = f"{facts['shared'] / GIB:.1f} GiB shared memory"
        yield Finding(check, False, found, MORE_SHARED_MEMORY)


def on_every_node(task: Any, *arguments: Any) -> dict[str, Any]:
    """Run a task on each node, and return the answers by name of the node.

    An answer is what the task returned, or the error that it raised.
    """
    refs = {}
    for node in alive_nodes():
        # Not soft: an answer from another node would say nothing about this one.
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        refs[_node_name(node)] = task.options(scheduling_strategy=there).remote(*arguments)
    # One wait for all: the time limit does not add up over the nodes.
    ray.wait(list(refs.values()), num_returns=len(refs), timeout=ANSWER_SECONDS)
    return {name: _answer(ref) for name, ref in refs.items()}


def alive_nodes() -> list[dict[str, Any]]:
    """Return what Ray knows of each node that is alive."""
    return [node for node in ray.nodes() if node["Alive"]]


# No CPU, so that a node which is busy answers, too. No retries: a dying node is a finding.
@ray.remote(num_cpus=0, max_retries=0)
def _node_facts() -> dict[str, Any]:
    """Return the versions of a node, and its free disk and shared memory, in bytes."""
    shared = Path("/dev/shm")
    return {
        "versions": versions(),
        "cuda": _has_cuda(),
        "disk": shutil.disk_usage(tempfile.gettempdir()).free,
        "shared": shutil.disk_usage(shared).free if shared.exists() else None,
    }


def _has_cuda() -> bool:
    # Not inside `_node_facts`: Ray pickles a task with the modules that it names, and fails for
    # `torch.backends.cuda`.
    return bool(torch.backends.cuda.is_built())


def _answer(ref: Any) -> Any:
    try:
        # `on_every_node` has waited already.
        return ray.get(ref, timeout=0)
    except GetTimeoutError:
        return TimeoutError(
            f"no answer within {ANSWER_SECONDS:.0f} s: the node is overloaded, or gone"
        )
    except RayTaskError as error:
        # The cause is the node's own error, without Ray's wrapping.
        return error.cause or error
    # Ray has many errors for a node that is lost; each is this node's answer.
    except Exception as error:
        return error


def _node_name(node: Mapping[str, Any]) -> str:
    return f"{node['NodeManagerAddress']} ({node['NodeID'][:8]})"


def _gpus(resources: Mapping[str, float]) -> str:
    """Return the number and the kind of a node's GPUs, or "" if it has none.

    Ray knows that; a task that asks for no GPU sees none.
    """
    if not resources.get("GPU"):
        return ""
    kinds = [name.partition(":")[2] for name in resources if name.startswith("accelerator_type:")]
    return " ".join([f"{resources['GPU']:g}", *kinds])


def _summary(gpus: str, facts: Mapping[str, Any]) -> str:
    there = facts["versions"]
    numbers = ", ".join(f"{name} {there.get(name, 'missing')}" for name in SAME_VERSIONS)
    found = f"{numbers}; GPUs: {gpus or 'none'}; {facts['disk'] / GIB:.0f} GiB free disk"
    if facts["shared"] is not None:
        found += f", {facts['shared'] / GIB:.1f} GiB shared memory"
    return found


def _version_problems(check: str, there: Mapping[str, str]) -> Iterator[Finding]:
    here = versions()
    for name in SAME_VERSIONS:
        if there.get(name) != here.get(name):
            found = f"{name} {there.get(name, 'is missing')} there, {here.get(name, 'none')} here"
            yield Finding(check, False, found, f"Install the same {name} on every node.")
