"""Checks of the store: can it be written, is it sound, do all nodes share it."""

import shutil
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import ray

from raybd.engine.cluster.doctor.finding import GIB, MIN_DISK_BYTES, Finding, error_text
from raybd.engine.cluster.doctor.node import on_every_node
from raybd.results.artifacts import State, Unusable
from raybd.results.store import Store, open_store
from raybd.results.threads import map_in_threads
from raybd.types.errors import UserError

STATES = get_args(State)


def store_findings(url: str) -> Iterator[Finding]:
    """Check whether this machine can write the store, its free space, and all its files."""
    try:
        store = open_store(url)
        store.check_writable()
    except UserError as error:
        yield Finding("store", False, error.what, error.hint)
        return

    yield Finding("store", True, f"{store.url} can be written and read")
    # Object storage tells no free space.
    if store.local:
        free = shutil.disk_usage(store.root).free
        hint = "" if free >= MIN_DISK_BYTES else "Free some space, or give another --store."
        yield Finding("disk", not hint, f"{free / GIB:.0f} GiB free at the store", hint)
    yield _integrity(store)


def shared_store_findings(url: str) -> Iterator[Finding]:
    """Check for each node whether it shares the store with this machine."""
    try:
        yield from _shared_by_nodes(open_store(url))
    except (UserError, OSError):
        return  # `store_findings` says what is wrong with it here


def check_store_everywhere(store: Store) -> None:
    """Raise UserError (exit code 3) that names a node which does not share the store.

    Each node must read what the driver writes, and write where the driver reads.
    """
    for finding in _shared_by_nodes(store):
        if not finding.ok:
            raise UserError(f"{finding.check}: {finding.found}", finding.hint, exit_code=3)


def _shared_by_nodes(store: Store) -> list[Finding]:
    # The dot hides it from whoever lists the store; the id keeps two runs apart.
    probe = f".probe-{uuid.uuid4().hex}"
    store.write(probe, b"raybd")
    try:
        answers = on_every_node(_read_and_write, store, probe)
        return [_shared_by_node(node, answer, store) for node, answer in answers.items()]
    finally:
        store.remove(probe)


# No CPU: a node whose CPUs are taken can answer.
@ray.remote(num_cpus=0, max_retries=0)
def _read_and_write(store: Store, probe: str) -> str:
    """Read the driver's file on a node, write another one, and return its path."""
    store.read(probe)
    path = f"{probe}-{uuid.uuid4().hex}"
    store.write(path, socket.gethostname().encode())
    return path


def _shared_by_node(node: str, answer: Any, store: Store) -> Finding:
    """Return whether a node and the driver use the same store, from the node's answer."""
    check = f"store from {node}"
    if isinstance(answer, Exception) and not isinstance(answer, FileNotFoundError):
        found = f"{store.url}: {error_text(answer)}"
        hint = "Make it readable and writable there; check its credentials."
        return Finding(check, False, found, hint)

    # Not found: the node does not see the driver's file; or the driver does not see the node's.
    if isinstance(answer, FileNotFoundError) or not store.exists(answer):
        found = f"{store.url} is another place there than here"
        hint = "Give a --store that all nodes share: a folder that each of them mounts, or s3://."
        return Finding(check, False, found, hint)

    store.remove(answer)
    found = "reads what this machine writes, and this machine reads what it writes"
    return Finding(check, True, found)


def _integrity(store: Store) -> Finding:
    """Check every file of the store that has a checksum. Damaged files are set aside."""
    artifacts = [
        (stage, key)
        for _, stage, key, _ in (
            path.split("/") for path in store.files("artifacts/*/*/manifest.json")
        )
    ]
    states = map_in_threads(lambda artifact: _state(store, *artifact), artifacts)
    damaged = sum(state == "damaged" for state in states.values())
    unusable = sorted({state for state in states.values() if state not in STATES})

    cells = [Path(path).stem for path in store.files("cells/*.parquet")]
    checked = {cell for cell in cells if store.cell(cell) is not None}
    damaged += len(cells) - len(checked)
    beside = ("trials/*", "analysis/*", "predictions", "dynamics")
    tables = [path for folder in beside for path in store.files(f"{folder}/*.parquet")]
    # Those of cells were checked with their cells; others belong to trials.
    scores = store.files("scores/*/*/*/*.parquet")
    tables += [path for path in scores if Path(path).stem not in checked]
    damaged += sum(not store.table_is_sound(path) for path in tables)

    found = (
        f"{len(artifacts)} artefacts, {len(cells)} cells and {len(tables)} other tables "
        f"checked, {damaged} damaged"
    )
    hints = []
    if damaged:
        hints.append("They were set aside; run the experiment again to compute them again.")
    if unusable:
        found += f"; not checked: {unusable[0]}"
        found += f", and {len(unusable) - 1} more" if len(unusable) > 1 else ""
        hints.append("Upgrade raybd, or use a machine with more memory.")
    return Finding("integrity", not hints, found, " ".join(hints))


def _state(store: Store, stage: str, key: str) -> str:
    """Return the state of an artefact, or why it can't be checked here."""
    try:
        return store.state(stage, key)
    except Unusable as error:
        return error.what
