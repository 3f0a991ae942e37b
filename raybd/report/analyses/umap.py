"""The picture of UMAP."""

import pandas as pd

from raybd.report.analyses._scatter import scatter
from raybd.report.analyses.figure import Figure


def draw(frame: pd.DataFrame) -> list[Figure]:
    """Return a cloud for each victim."""
    return scatter("UMAP", frame)
