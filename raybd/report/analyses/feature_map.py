"""Feature maps of one image without and with the trigger, and their difference."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from raybd.report.analyses._layers import array
from raybd.report.analyses.figure import Figure, victims
from raybd.report.svg import Picture, Plot, images
from raybd.report.svg.tones import ramp

_MOST = 16
"""Channels that are drawn, those with the largest change."""

_Maps = NDArray[np.float64]


def draw(frame: pd.DataFrame) -> list[Figure]:
    """Return the maps of the channels that change most, for each victim, on one scale."""
    found = [(name, own, *_maps(own)) for name, own in victims(frame)]
    most = max(
        float(np.abs(maps).max()) for _, _, _, plain, worn in found for maps in (plain, worn)
    )
    widest = max(float(np.abs(worn - plain).max()) for _, _, _, plain, worn in found)
    drawn = []
    for name, own, units, plain, worn in found:
        title = f"Feature maps of {own['layer'].iloc[0]}: {name}"
        sheet = [
            _row(plain / (most or 1) / 2 + 0.5, [f"unit {unit}" for unit in units]),
            _row(worn / (most or 1) / 2 + 0.5),
            _row((worn - plain) / (widest or 1) / 2 + 0.5),
        ]
        rows = ["without", "with trigger", "change"]
        caption = (
            "The channels that change most, by the norm of their change. White is zero, red more, "
            "blue less; all victims have one scale, the changes have their own."
        )
        drawn.append(Figure(title, images(sheet, Plot(title), rows, side=44), caption))
    return drawn


def _maps(own: pd.DataFrame) -> tuple[list[int], _Maps, _Maps]:
    """Return the units that change most, and their maps without and with the trigger."""
    shape = (-1, int(own["h"].iloc[0]), int(own["w"].iloc[0]))
    plain = own[~own["stamped"].astype(bool)].sort_values("unit")
    worn = own[own["stamped"].astype(bool)].sort_values("unit")
    order = np.argsort(-plain["change"].to_numpy(), kind="stable")[:_MOST]
    both = [
        array(np.stack([np.asarray(one, dtype=np.float64) for one in rows["map"]]), *shape)[order]
        for rows in (plain, worn)
    ]
    return [int(unit) for unit in plain["unit"].to_numpy()[order]], both[0], both[1]


def _row(shares: _Maps, captions: list[str] | None = None) -> list[Picture]:
    words = captions or [""] * len(shares)
    return [
        Picture(ramp(share, two_sided=True), word)
        for share, word in zip(shares, words, strict=True)
    ]
