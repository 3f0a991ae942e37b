"""Colours of plots: by what they stand for, by number, or on a scale."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Tone = int | Literal["clean", "poison", "cross", "ink", "dim"]
"""A role of a sample, the ink of the page (marked things), dimmed ink, or a number for anything
else: classes, series."""

_NAMED = {
    "clean": "#3b78b5",
    "poison": "#d1501f",
    "cross": "#8d5bb5",
    "ink": "#1c2024",
    "dim": "#667079",
    "line": "#d9dee3",
    "paper": "#fff",
}
# Ten colours that differ on white and on black, and for most colour-blind eyes (after Paul Tol).
_NUMBERED = (
    "#4477aa",
    "#ee7733",
    "#228833",
    "#aa3377",
    "#bbaa33",
    "#33bbcc",
    "#cc3311",
    "#8866cc",
    "#997755",
    "#889099",
)
# Dark to light, as evenly as viridis; and blue over white to red.
_RAMP = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))
_TWO_SIDED = ((33, 102, 172), (146, 197, 222), (247, 247, 247), (244, 165, 130), (178, 24, 43))


def paint(tone: Tone | str) -> str:
    """Return a tone as a value of CSS."""
    if isinstance(tone, int):
        number = tone % len(_NUMBERED)
        return f"var(--tone-{number},{_NUMBERED[number]})"
    return f"var(--{tone},{_NAMED[tone]})"


def ramp(share: NDArray[np.float64], two_sided: bool = False) -> NDArray[np.uint8]:
    """Return the colours ...x3 of shares in 0..1 of a scale; `two_sided`: .5 is white."""
    anchors = np.array(_TWO_SIDED if two_sided else _RAMP, dtype=np.float64)
    at = np.linspace(0, 1, len(anchors))
    parts = [np.interp(share, at, anchors[:, channel]) for channel in range(3)]
    return np.stack(parts, -1).round().astype(np.uint8)
