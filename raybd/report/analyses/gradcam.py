"""The pictures of Grad-CAM."""

import pandas as pd

from raybd.report.analyses._pair_maps import masses, sheet
from raybd.report.analyses.figure import Figure


def draw(frame: pd.DataFrame) -> list[Figure]:
    """Return the shares within the trigger, and a sheet of maps for each victim."""
    return [masses("Grad-CAM", frame), *sheet("Grad-CAM", frame, two_sided=False)]
