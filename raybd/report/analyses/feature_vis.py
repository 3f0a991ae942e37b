"""The picture of feature visualisation: the image that each unit wants."""

import numpy as np
import pandas as pd

from raybd.report.analyses.figure import Figure, victims
from raybd.report.svg import Picture, Plot, images


def draw(frame: pd.DataFrame) -> list[Figure]:
    """Return a row of images for each victim."""
    sheet = []
    for _, rows in victims(frame):
        pictures = []
        for _, row in rows.iterrows():
            shape = (row["height"], row["width"], -1)
            pixels = np.asarray(row["image"], dtype=np.uint8).reshape(shape)
            pictures.append(Picture(pixels, f"{row['unit']}: {row['objective']:.2g}"))
        sheet.append(pictures)
    names = [victim for victim, _ in victims(frame)]
    title = "Images that units want"
    caption = (
        "Found by ascent, for the units that the trigger changes most. Below each image: the unit "
        "and its mean activation on it."
    )
    return [Figure(title, images(sheet, Plot(title, width=460), names, side=72), caption)]
