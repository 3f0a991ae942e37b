"""What one row of the cells table says about its cell."""

import json
from collections.abc import Mapping
from typing import Any

from raybd.cells.row import WEAK_ATTACK
from raybd.registry import SOURCE_FIELD

Cell = Mapping[str, Any]
"""One row of the cells table; a missing value is None."""


def config(cell: Cell) -> dict[str, Any]:
    """Return every hyperparameter of a cell by role, and the keys of its stages.

    Empty if it can't be read.
    """
    try:
        found = json.loads(cell["config"] or "{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def part(cell: Cell, name: str) -> dict[str, Any]:
    """Return one mapping of the configuration: the fields of a role, or the stages."""
    found = config(cell).get(name)
    return found if isinstance(found, dict) else {}


def hyperparameters(cell: Cell, role: str) -> str:
    """Return the fields of the method that has a role, as one line."""
    fields = part(cell, role)
    # `version` is raybd's own count of a method's changes, and the hash of a source is no field.
    unset = ("version", SOURCE_FIELD)
    return ", ".join(f"{name}={value}" for name, value in fields.items() if name not in unset)


def benign(cell: Cell) -> bool:
    """Whether nothing is poisoned: the control, where every flagged sample is a false alarm."""
    # An experiment may give the control another name. Its kind tells what it is.
    return str(part(cell, "attack").get("kind", cell["attack"])) == "none"


def attack_failed(cell: Cell) -> bool:
    """Whether the victim was attacked and has no backdoor."""
    # Success is missing if the cell was not run: such a cell is no failed attack.
    success = cell["attack_success"]
    return not benign(cell) and success is not None and success < WEAK_ATTACK


def stage_key(cell: Cell, stage: str) -> str | None:
    """Return the key of the artefact of a stage; None if the cell has no such stage."""
    key = part(cell, "stages").get(stage)
    return None if key is None else str(key)


def scored_stage(cell: Cell) -> str:
    """Return the stage that gave suspicion: of a detector, a scanner, or a training defense."""
    known = config(cell).get("suspicion")
    if known is not None:
        return str(known)
    # The rows of older stores do not say so.
    return {"trainer": "defended", "scanner": "scan"}.get(str(cell["defense_role"]), "score")


def defense_action(cell: Cell) -> str:
    """Return what was done with what a defense found, in a few words."""
    if stage_key(cell, "purification") is not None:
        return "refuse flagged inputs"
    if stage_key(cell, "removal") is not None:
        return "drop flagged, retrain"
    return "train" if stage_key(cell, "defended") is not None else "repair"
