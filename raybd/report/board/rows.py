"""The rows of the board: cells that differ in their seed alone, and the problem they are about."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from raybd.cells.row import WEAK_ATTACK
from raybd.report.board.labels import Keys, labels
from raybd.report.board.measures import with_derived
from raybd.report.cells.cell import config

Cell = Mapping[str, Any]
BEST = "_best"
"""Ending of the names of methods that a sweep tuned."""
GROUPS = {"none": "benign", "training": "training", "encoder": "encoder"}
RETRAINED = ", retrained"
REFUSING = ", refusing"


class Problem(NamedTuple):
    """What a method is run on."""

    dataset: str
    network: str
    trainer: str
    attack: str
    rate: float


@dataclass(frozen=True)
class Row:
    """Cells that differ in their seed alone, by ascending seed."""

    problem: Problem
    method: str
    role: str
    """The column `defense_role`."""
    kind: str
    """The attack's kind, which variants of one attack share."""
    group: str
    """benign, dirty label, clean label, training or encoder."""
    tracks: tuple[tuple[str, str], ...]
    """The tracks that it is ranked in, and what its method is called there."""
    cells: tuple[Cell, ...]
    sweep: str | None
    """The sweep that tuned its method."""

    @property
    def benign(self) -> bool:
        """Whether nothing is poisoned."""
        return self.group == "benign"

    @cached_property
    def by_seed(self) -> dict[int, Cell]:
        """Its cells by seed."""
        return {cell["seed"]: cell for cell in self.cells}

    @property
    def oracle(self) -> bool:
        """Whether it used knowledge that a defender lacks."""
        return any(cell["oracle"] for cell in self.cells)

    @property
    def status(self) -> str:
        """`failed` if any cell failed, else `infeasible`, else `ok`."""
        known = {cell["status"] for cell in self.cells}
        return next((word for word in ("failed", "infeasible") if word in known), "ok")

    @property
    def device(self) -> str:
        """`cpu`, the name of a GPU, or both in one text; empty if nothing was run."""
        return " and ".join(sorted({device_kind(cell) for cell in self.cells} - {""}))


def device_kind(cell: Cell) -> str:
    """Return `cpu`, or the name of the GPU; empty if the cell was not run."""
    return "" if cell["device"] is None else str(cell["device"]).split(" (")[0]


def attack_worked(cell: Cell) -> bool:
    """Whether the victim has a backdoor; a cell without the number does not say it has none."""
    success = cell["attack_success"]
    return success is None or success >= WEAK_ATTACK


def rows_of(cells: Sequence[Cell]) -> list[Row]:
    """Return the rows of the board, in an order that does not depend on that of the cells.

    Of two cells with one seed, the one that finished last is taken.
    """
    keys = Keys()
    described = [_Described.of(cell, keys) for cell in cells]
    named = {
        role: labels(getattr(one, role) for one in described)
        for role in ("dataset", "network", "trainer", "attack", "method")
    }
    grouped: dict[tuple[Any, ...], list[_Described]] = {}
    for one in described:
        names = {role: named[role][getattr(one, role)] for role in named}
        method = names.pop("method")
        rate = float(one.cell["rate"] or 0.0)
        grouped.setdefault((Problem(rate=rate, **names), method), []).append(one)
    rows = [_row(problem, method, members) for (problem, method), members in grouped.items()]
    return sorted(rows, key=lambda row: (row.problem, row.role, row.method))


@dataclass(frozen=True)
class _Described:
    """A cell with a name and a key for each of its parts."""

    cell: Cell
    config: Mapping[str, Any]
    dataset: tuple[str, str]
    network: tuple[str, str]
    trainer: tuple[str, str]
    attack: tuple[str, str]
    method: tuple[str, str]

    @classmethod
    def of(cls, cell: Cell, keys: Keys) -> "_Described":
        known = config(cell)

        def part(name: str) -> dict[str, Any]:
            found = known.get(name)
            return found if isinstance(found, dict) else {}

        # Attacks that differ in their rate alone are one attack at several rates.
        attack = {name: value for name, value in part("attack").items() if name != "rate"}
        trainer = {**part("trainer"), "encoder": part("encoder"), "canaries": part("canaries")}
        stages = part("stages")
        method = {
            **part("defense"),
            "after": part("after"),
            "removal": "removal" in stages,
            "purification": "purification" in stages,
        }
        return cls(
            cell,
            known,
            *(
                (str(cell[name]), keys.of(fields))
                for name, fields in (
                    ("dataset", part("dataset")),
                    ("network", part("network")),
                    ("trainer", trainer),
                    ("attack", attack),
                    ("defense", method),
                )
            ),
        )


def _row(problem: Problem, method: str, members: Sequence[_Described]) -> Row:
    by_time = sorted(members, key=lambda one: (str(one.cell["finished_at"]), one.cell["cell"]))
    latest = {one.cell["seed"]: one for one in by_time}
    kept = [latest[seed] for seed in sorted(latest)]
    first = kept[0]
    attack = first.config.get("attack")
    fields = attack if isinstance(attack, dict) else {}
    role = str(first.cell["defense_role"])
    return Row(
        problem,
        method,
        role,
        str(fields.get("kind", problem.attack)),
        _group(str(first.cell["threat_model"]), fields),
        _tracks(role, method, first.config),
        tuple(with_derived(one.cell) for one in kept),
        _sweep(first.cell),
    )


def _group(threat_model: str, attack: Mapping[str, Any]) -> str:
    if threat_model in GROUPS or attack.get("kind") == "none":
        return GROUPS.get(threat_model, "benign")
    labelled = attack.get("labels")
    kept = isinstance(labelled, dict) and "clean_label" in str(labelled.get("map"))
    return "clean label" if kept else "dirty label"


def _tracks(role: str, method: str, known: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    if role in ("repair", "trainer"):
        return (("defenses", method),)
    if role == "scanner":
        return (("scanners", method),)
    if role != "detector":
        return ()
    stages = known.get("stages")
    stages = stages if isinstance(stages, dict) else {}
    # A detector whose verdict is acted on is a defense, too.
    acting = [
        ("defenses", method + ending)
        for stage, ending in (("removal", RETRAINED), ("purification", REFUSING))
        if stage in stages
    ]
    return (("detectors", method), *acting)


def _sweep(cell: Cell) -> str | None:
    experiment = str(cell["experiment"])
    tuned = str(cell["defense"]).endswith(BEST) and experiment.endswith(BEST)
    return experiment.removesuffix(BEST) if tuned else None
