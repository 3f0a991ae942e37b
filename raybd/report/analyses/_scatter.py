"""A cloud of images in the plane, coloured by class; poison is black."""

import pandas as pd

from raybd.report.analyses.figure import Figure, victims
from raybd.report.svg import Plot, Points, points


def scatter(name: str, frame: pd.DataFrame) -> list[Figure]:
    """Return a cloud for each victim; coordinates of two victims have nothing to do with another.

    The colour is the label that an image carries in training, or its true one in a test set.
    """
    figures = []
    for victim, rows in victims(frame):
        label = rows["given"].fillna(rows["true"])
        plain = rows[~rows["stamped"] & (rows["role"] != "cross")]
        clouds = [
            Points(f"class {int(y)}", own["u"], own["v"], int(y))
            for y, own in plain.groupby(label[plain.index])
        ]
        cross, poison = rows[rows["role"] == "cross"], rows[rows["stamped"]]
        if len(cross):
            clouds.append(Points("cross", cross["u"], cross["v"], "cross"))
        if len(poison):
            clouds.append(Points("poison", poison["u"], poison["v"], "ink"))
        trust = float(rows["trustworthiness"].iloc[0])
        title = f"{name}: {victim}"
        figures.append(
            Figure(
                title,
                points(clouds, Plot(title, height=320, description=f"{len(rows)} images")),
                "Each point is an image, coloured by class; those with the trigger are black. "
                f"Trustworthiness {trust:.2f} of 1: the share of neighbours that can be believed.",
            )
        )
    return figures
