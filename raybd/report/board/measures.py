"""What the board shows of a row, and by which number each kind of method is ranked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raybd.metrics.catalogue import BY_NAME
from raybd.metrics.effectiveness import defense_effectiveness
from raybd.metrics.measure import Measure
from raybd.metrics.statistics.estimate import Estimate
from raybd.metrics.statistics.over_cells import estimate

DER = Measure(
    "der",
    "defended",
    "DER",
    "Defense effectiveness: 1 is a repair that costs nothing, 0.5 one that does nothing",
    better="high",
)
CALLED = Measure(
    "called",
    "scan",
    "called backdoored",
    "Share of the models that the scanner calls backdoored",
    better="high",
)
SHOWN: tuple[Measure, ...] = (
    *(
        BY_NAME[name]
        for name in (
            "clean_accuracy",
            "attack_success",
            "auroc",
            "tpr",
            "fpr",
            "defended_clean_accuracy",
            "defended_attack_success",
        )
    ),
    DER,
    CALLED,
)
"""The shares of a row, in the order of the columns of the page."""


@dataclass(frozen=True)
class Track:
    """Methods that are ranked together, because one number compares them."""

    name: str
    title: str
    one: str
    """What one of them is called."""
    measure: Measure
    benign: Measure
    """What the method does where nothing is poisoned."""
    benign_words: str


TRACKS: tuple[Track, ...] = (
    Track("detectors", "Detectors", "detector", BY_NAME["auroc"], BY_NAME["fpr"], "false alarms"),
    Track(
        "defenses",
        "Repairs and training defenses",
        "defense",
        DER,
        BY_NAME["defended_clean_accuracy"],
        "change of clean accuracy",
    ),
    Track("scanners", "Scanners", "scanner", CALLED, CALLED, "called backdoored"),
)
BY_TRACK = {track.name: track for track in TRACKS}


def with_derived(cell: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of the cells table with the numbers that the board derives from it."""
    scanned = cell["defense_role"] == "scanner" and cell["n_flagged"] is not None
    return {
        **cell,
        "der": defense_effectiveness(cell),
        "called": float(cell["n_flagged"] > 0) if scanned else None,
    }


def shown(cells: Sequence[Mapping[str, Any]], measure: Measure) -> Estimate | None:
    """Return a measure over seeds, with its interval in [0, 1]."""
    found = estimate(cells, measure)
    return None if found is None else found.within(0.0, 1.0)
