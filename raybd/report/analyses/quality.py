"""Image quality: the spread of each measure, and the spectrum of the change."""

import pandas as pd

from raybd.report.analyses.figure import Figure, victims
from raybd.report.svg import Plot, bars, histograms

_MEASURES = {
    "psnr": ("PSNR", "decibel", "Higher: the trigger is harder to see."),
    "ssim": ("SSIM", "structural similarity", "1: the image looks the same with the trigger."),
    "linf": ("Largest change", "levels of 255", "The largest change of any pixel."),
}


def draw(frame: pd.DataFrame) -> list[Figure]:
    """Return a histogram of three measures, and the bands of the spectrum."""
    # The images are the same for all victims of an attack.
    _, own = victims(frame)[0]
    drawn = []
    for column, (title, unit, caption) in _MEASURES.items():
        plot = Plot(title, unit, "density", description=f"the distribution of {title} over images")
        drawn.append(Figure(title, histograms({"": own[column]}, plot), caption))

    bands = sorted(str(column) for column in own if str(column).startswith("band_"))
    energy = {"energy": [own[band].mean() for band in bands]}
    title = "Spectrum of the change"
    plot = Plot(title, "band, from low to high frequency", "mean energy")
    caption = "Natural images have little energy in the high bands: a change there stands out."
    names = [band.removeprefix("band_") for band in bands]
    return [*drawn, Figure(title, bars(names, energy, plot), caption)]
