"""The pictures of attribution."""

import pandas as pd

from raybd.report.analyses._pair_maps import masses, sheet
from raybd.report.analyses.figure import Figure


def draw(frame: pd.DataFrame) -> list[Figure]:
    """Return the shares within the trigger, and a sheet of maps for each victim."""
    return [masses("Attribution", frame), *sheet("Attribution", frame, two_sided=True)]
