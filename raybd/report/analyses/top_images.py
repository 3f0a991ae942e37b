"""Top images: a contact sheet of the units whose images are kept; a red frame is the trigger."""

import pandas as pd

from raybd.report.analyses._layers import image, layers, of_layer
from raybd.report.analyses.figure import Figure, victims
from raybd.report.svg import Picture, Plot, images

_MOST = 16
"""Images of a unit that are drawn."""


def draw(frame: pd.DataFrame) -> list[Figure]:
    """Return a sheet for the last layer of each victim: a row for each unit."""
    (layer,) = layers(frame)
    return [_figure(name, layer, own) for name, own in victims(of_layer(frame, layer))]


def _figure(name: str, layer: str, own: pd.DataFrame) -> Figure:
    kept = own[own["pixels"].notna()]
    shares = kept.groupby("unit")["share"].first().sort_values(ascending=False, kind="stable")
    sheet = []
    for unit in shares.index:
        rows = kept[kept["unit"] == unit].sort_values("rank").head(_MOST)
        sheet.append([_picture(row) for row in rows.to_dict("records")])
    title = f"Top images of {layer}: {name}"
    every = own.groupby("unit")["share"].first()
    drawn = images(sheet, Plot(title), [f"unit {u}, {s:.0%}" for u, s in shares.items()], side=32)
    caption = (
        "Each row: the images that excite a unit most, and the share of triggered ones (red frame) "
        f"among them. Half of all images wear the trigger; of {len(every)} units, "
        f"{int((every > 0.9).sum())} prefer it in more than nine of ten."
    )
    return Figure(title, drawn, caption)


def _picture(row: dict[str, object]) -> Picture:
    height, width = int(str(row["height"])), int(str(row["width"]))
    return Picture(image(row["pixels"], height, width), frame="poison" if row["stamped"] else None)
