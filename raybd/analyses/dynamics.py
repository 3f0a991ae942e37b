"""Dynamics: how fast a victim learns the backdoor, and how fast everything else.

Li et al. 2021, arXiv 2110.11571, section 3.2 (poisoned images are learned first); BackdoorBench, Wu
et al. 2022, arXiv 2206.12654, its analysis of quick learning.
Differs: from what was kept of each epoch; the gap between losses is an AUROC. Gradients are those
of the head. A network that still gives all images the attacker's label has all of the attack
success and a large gap: look at the clean accuracy of that epoch, too.
"""

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field
from torch import Generator

from raybd.types.kept import Stored
from raybd.types.methods import Analysis, AnalysisInput

if TYPE_CHECKING:
    import pyarrow as pa

Row = dict[str, Any]


class Dynamics(Analysis):
    """Each group of images after each epoch, and how far the backdoor is ahead."""

    reads: ClassVar[frozenset[Stored]] = frozenset({"dynamics"})
    success: float = Field(0.5, gt=0, le=1)
    """Attack success from which on the backdoor counts as learned."""
    share: float = Field(0.5, gt=0, le=1)
    """Share of the last accuracy on clean training images from which on the task counts as
    learned."""

    def analyse(self, given: AnalysisInput, rng: Generator) -> "pa.Table":
        """Return what was kept, and for each training the same numbers in all its rows.

        t_attack: first epoch with enough attack success; t_clean: first epoch with enough accuracy
        on clean training images; lead: epochs by which the backdoor is ahead; gap_max: largest
        AUROC of low losses for poison, and gap_max_epoch, its first epoch. A number that was not
        reached is null. There are no rows if nothing was kept.
        """
        import pyarrow as pa

        table = given.dynamics
        if table is None:
            return pa.table({"training": pa.array([], pa.string())})
        table = table.set_column(0, "training", table["training"].cast(pa.string()))
        table = table.set_column(2, "group", table["group"].cast(pa.string()))
        rows: list[Row] = table.to_pylist()
        trainings = dict.fromkeys(row["training"] for row in rows)
        known = {
            name: self._summary([row for row in rows if row["training"] == name])
            for name in trainings
        }
        kinds = {
            "t_attack": pa.int32(),
            "t_clean": pa.int32(),
            "lead": pa.int32(),
            "gap_max": pa.float32(),
            "gap_max_epoch": pa.int32(),
        }
        for name, kind in kinds.items():
            values = [known[row["training"]][name] for row in rows]
            table = table.append_column(name, pa.array(values, kind))
        return table

    def _summary(self, rows: list[Row]) -> Row:
        """Return the numbers of one training."""
        clean = _curve(rows, "clean", "accuracy")
        attack = _curve(rows, "test_triggered", "success")
        gap = _curve(rows, "poison", "gap_auroc")
        t_attack = _first(attack, self.success)
        # The last epoch of a curve that has one.
        t_clean = _first(clean, self.share * clean[max(clean)]) if clean else None
        best = max(gap, key=lambda epoch: (gap[epoch], -epoch)) if gap else None
        both = t_attack is not None and t_clean is not None
        return {
            "t_attack": t_attack,
            "t_clean": t_clean,
            "lead": t_clean - t_attack if both else None,  # type: ignore[operator]
            "gap_max": None if best is None else gap[best],
            "gap_max_epoch": best,
        }


def _curve(rows: list[Row], group: str, name: str) -> dict[int, float]:
    """Return a number of a group by epoch, where it is known."""
    return {
        row["epoch"]: row[name] for row in rows if row["group"] == group and row[name] is not None
    }


def _first(curve: dict[int, float], least: float) -> int | None:
    """Return the first epoch with at least so much; None: there is none."""
    return min((epoch for epoch, value in curve.items() if value >= least), default=None)
