"""Which stored verdicts are about the same samples, so that their scores can be combined."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from raybd.registry import did_you_mean
from raybd.results.artifacts import Artifact
from raybd.results.store import Store
from raybd.types.errors import UserError

COMBINED = "combined"
"""The folder of combined verdicts among the artefacts, and their `suspicion` in a row."""
Row = Mapping[str, Any]


@dataclass(frozen=True)
class ScoreGroup:
    """The verdicts of several detectors on one victim and one pool."""

    rows: tuple[Row, ...]
    """The rows of their cells, by the names of the detectors."""
    keys: tuple[str, ...]
    """The keys of their artefacts of the stage score."""
    pool: str
    taken: frozenset[str]
    """The names of all detectors of this victim and pool."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the detectors."""
        return tuple(str(row["defense"]) for row in self.rows)

    def __str__(self) -> str:
        row = self.rows[0]
        names = (row["dataset"], row["attack"], row["trainer"])
        return " x ".join([*map(str, names), f"seed {row['seed']}", f"{self.pool} pool"])

    def load(self, store: Store) -> list[Artifact]:
        """Return the verdicts. Raises UserError if they are not about the same samples."""
        found = [store.load("score", key) for key in self.keys]
        first = found[0].tensors
        for name, other in zip(self.names, found, strict=True):
            # Roles are the truth: equal ones say that both saw the same poison.
            for what in ("index_N", "role_N"):
                if not torch.equal(first[what], other.tensors[what]):
                    raise UserError(
                        f"{self}: {self.names[0]} and {name} scored other samples",
                        "Run both in one experiment, and combine again.",
                    )
        return found


def score_groups(
    store: Store, detectors: Collection[str] = (), experiment: str | None = None
) -> list[ScoreGroup]:
    """Return the groups of at least two detectors, of all or of those that are named.

    Raises UserError if there is none, with the reason.
    """
    cells = store.cells(experiment)
    cells = cells[(cells["status"] == "ok") & (cells["defense_role"] == "detector")]
    found: dict[tuple[Any, ...], dict[str, tuple[Row, str]]] = {}
    stored = store.rows(cells["cell"].tolist())
    for row in sorted(stored.values(), key=lambda row: str(row["finished_at"])):
        config = json.loads(str(row["config"]))
        stages = config["stages"]
        if config.get("suspicion", "score") != "score" or "score" not in stages:
            continue
        pool = str(store.manifest("score", stages["score"])["pool"])
        place = (row["experiment"], row["dataset"], row["attack"], row["trainer"], row["network"])
        # One key of a victim says that all before it is the same, too. The latest of two variants
        # with one name replaces the earlier one.
        same = found.setdefault((*place, row["seed"], stages["victim"], pool), {})
        same[str(row["defense"])] = (row, stages["score"])

    known = {name for group in found.values() for name in group}
    for name in detectors:
        if name not in known:
            raise UserError(
                f"no cell of {store.url!r} has scores of {name!r}", did_you_mean(name, known)
            )
    wanted = set(detectors)
    groups = []
    for place, group in found.items():
        names = sorted(wanted or group)
        if len(names) >= 2 and all(name in group for name in names):
            rows = tuple(group[name][0] for name in names)
            keys = tuple(group[name][1] for name in names)
            groups.append(ScoreGroup(rows, keys, place[-1], frozenset(group)))
    if not groups:
        raise UserError(
            f"{store.url!r} has no victim that two detectors of one pool have scored",
            "Run an experiment with several detectors of the training set (or of test inputs), or "
            "name others: --detectors.",
        )
    return groups
