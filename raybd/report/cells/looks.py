"""What the attacks do to images: each look once, whatever its rate and seed."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from raybd.registry import PRECISION_FIELD, SOURCE_FIELD
from raybd.report.cells.cell import Cell, benign, part, stage_key
from raybd.report.cells.tables import Table

_NOT_SEEN = ("rate", "version", "seed", SOURCE_FIELD, PRECISION_FIELD)
"""Fields that change which images are poisoned, and not what they look like."""


@dataclass
class AttackLook:
    """One kind of attack on one data set."""

    dataset: str
    name: str
    cells: dict[str, Cell] = field(default_factory=dict)
    """One cell of each look, by the key of its poison stage."""
    drawn: dict[str, str] = field(default_factory=dict)
    """What tells a look from the others, by the same keys."""
    alike: list[str] = field(default_factory=list)
    """Rates and seeds that look the same, in words."""


def attack_looks(found: Sequence[Table]) -> list[AttackLook]:
    """Return the looks of the attacks by data set and kind.

    Of poisoned data sets that differ in their rate or seed alone, the one of the lowest seed is
    drawn, and of those the one of the highest rate.
    """
    looks: dict[tuple[str, str], AttackLook] = {}
    seen: set[tuple[str, str, str]] = set()
    for key, cell in _poisoned(found).items():
        dataset = str(cell["dataset"])
        kind = str(part(cell, "attack").get("kind", cell["attack"]))
        own = looks.setdefault((dataset, kind), AttackLook(dataset, str(cell["attack"])))
        fields = {n: value for n, value in part(cell, "attack").items() if n not in _NOT_SEEN}
        look = (dataset, kind, json.dumps(fields, sort_keys=True))
        words = f"{cell['attack']}{_rate(cell)}, seed {cell['seed']}"
        if look in seen:
            own.alike.append(words)
        else:
            seen.add(look)
            own.cells[key] = cell
            own.drawn[key] = words
    return list(looks.values())


def _poisoned(found: Sequence[Table]) -> dict[str, Cell]:
    """Return one cell of each poisoned data set, by the key of its poison stage."""
    # An infeasible attack was never run, and the benign control changes no image.
    cells = [
        cell
        for table in found
        for cell in table.cells
        if cell["status"] != "infeasible" and not benign(cell)
    ]
    keyed = {key: cell for cell in cells if (key := stage_key(cell, "poison")) is not None}

    def order(item: tuple[str, Cell]) -> tuple[Any, ...]:
        cell = item[1]
        kind = str(part(cell, "attack").get("kind", cell["attack"]))
        rate = -(cell["rate"] or 0)
        return (str(cell["dataset"]), kind, cell["seed"], rate, str(cell["attack"]))

    return dict(sorted(keyed.items(), key=order))


def _rate(cell: Cell) -> str:
    return f" at {cell['rate']:g}" if cell["rate"] else ""
