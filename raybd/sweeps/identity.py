"""Whether the trials that a store has under the name of a sweep are trials of this very sweep.

A sweep may grow (`trials`) and be run another way. With other methods, ranges or objectives, or on
other data, its trials cannot be compared with the stored ones, and it needs a name of its own.
"""

import json
from typing import Any

from raybd.cells.stage import content_hash
from raybd.results.parquet import Unsound
from raybd.results.store import Store
from raybd.sweeps.sweep import DEFAULT, Sweep
from raybd.types.errors import UserError

WHAT_DIFFERS = {
    "definition": "with other methods, ranges or objectives",
    "stages": "on other data, or by other versions of its methods",
}
"""How a sweep can differ from the one in the store."""
MAX_IDENTITY_BYTES = 2**20
"""Size of the file that says so; it has two hashes."""
MAX_JOURNAL_BYTES = 2**26
"""Size of the journal of a study: about 2,000 bytes for each trial."""
CHECKSUM = "checksum"
"""What a damaged file is told by: a changed hash would else say that this is another sweep."""
LEASE = "sweeps/{name}/lease"
"""Folder of the lease of the process that runs a sweep."""


def check_same_sweep(sweep: Sweep, store: Store) -> None:
    """Raise UserError if the store holds another sweep of this name. Nothing is written."""
    known = _stored(sweep.name, store)
    asked = identity_of(sweep)
    for name, how in WHAT_DIFFERS.items():
        if known.get(name, asked[name]) != asked[name]:
            raise _another(sweep, f"the store holds another sweep {sweep.name!r}, {how}")

    if "definition" not in known and _has_trials(sweep.name, store):
        raise _another(
            sweep, f"the store holds trials of a sweep {sweep.name!r}, but not what was searched"
        )


def note_sweep(sweep: Sweep, store: Store) -> None:
    """Write what makes the trials of a sweep comparable, for `check_same_sweep`."""
    told = identity_of(sweep)
    text = json.dumps({**told, CHECKSUM: content_hash(told)}, indent=1)
    store.write(_path(sweep.name), text.encode())


def identity_of(sweep: Sweep) -> dict[str, str]:
    """Return what makes the trials of a sweep comparable: a hash for each way to differ."""
    keys = sorted({cell.last.key for cell in sweep.cells_of(sweep.base())})
    return {"definition": sweep.definition, "stages": content_hash(keys)}


def _stored(name: str, store: Store) -> dict[str, Any]:
    """Return what the store tells of a sweep; {} if that is nothing.

    A damaged file is set aside.
    """
    try:
        found = _sound(store.read(_path(name), MAX_IDENTITY_BYTES))
        damaged = found is None
    except FileNotFoundError:
        found, damaged = None, False
    except Unsound:
        found, damaged = None, True
    if found is not None:
        return found
    if damaged:
        store.quarantine(_path(name), "is damaged, and the journal tells what was searched")
    # Older versions keep the definition in the study alone. Importing Optuna takes long.
    try:
        journal = store.read_if_there(f"sweeps/{name}/study.journal", MAX_JOURNAL_BYTES)
    except Unsound:
        journal = None  # `Journal` sets it aside
    return _of_journal(journal or b"")


def _sound(data: bytes) -> dict[str, str] | None:
    """Return what the file says; None if it is damaged."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    # Those of older versions have none.
    stated = found.pop(CHECKSUM, None)
    whole = found.keys() == WHAT_DIFFERS.keys() and stated in (None, content_hash(found))
    return found if whole else None


def _of_journal(journal: bytes) -> dict[str, Any]:
    """Return what a journal of Optuna's tells; those of older versions tell no stages."""
    found: dict[str, Any] = {}
    for line in journal.splitlines():
        if not any(f'"{name}"'.encode() in line for name in WHAT_DIFFERS):
            continue
        try:
            told = json.loads(line)["user_attr"]
            found |= {name: told[name] for name in WHAT_DIFFERS if name in told}
        except (ValueError, KeyError, TypeError, RecursionError):
            continue  # a line that a killed driver did not finish, or of another kind
    return found


def _has_trials(name: str, store: Store) -> bool:
    """Return whether there are rows of trials besides the default one."""
    rows = store.files(f"trials/sweep={name}/*.parquet")
    return any(not path.endswith(f"/{DEFAULT}.parquet") for path in rows)


def _path(name: str) -> str:
    return f"sweeps/{name}/identity.json"


def _another(sweep: Sweep, what: str) -> UserError:
    return UserError(
        f"{sweep.where}: {what}",
        "Give this one another name, or another store, or remove "
        f"sweeps/{sweep.name} and trials/sweep={sweep.name} there.",
    )
