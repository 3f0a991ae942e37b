"""Separability over depth: each statistic, a line for each victim."""

import pandas as pd

from raybd.report.analyses._layers import layers
from raybd.report.analyses.figure import Figure, victims
from raybd.report.svg import Line, Plot, Tone, lines

_STATISTICS = {
    "auroc": ("AUROC", (0.0, 1.0), "0.5: no better than chance, along the difference of means."),
    "silhouette": ("Silhouette", None, "0: the two kinds lie in each other."),
    "fisher": ("Fisher ratio", None, "Distance of the means by the spread of both kinds."),
    "distance_correlation": ("Distance correlation", (0.0, 1.0), "0: independent."),
    "effective_rank_poison": ("Effective rank of poison", None, "Low: on a few directions only."),
}
_TONES: dict[str, Tone] = {"victim": "poison", "clean twin": "clean"}


def draw(frame: pd.DataFrame) -> list[Figure]:
    """Return one picture for each statistic, over the layers in the order of execution."""
    names = layers(frame, len(frame))
    shown = victims(frame)
    drawn = []
    for statistic, (title, scale, caption) in _STATISTICS.items():
        series = []
        for number, (name, own) in enumerate(shown):
            value = own[own["statistic"] == statistic].set_index("layer")["value"].reindex(names)
            tone = _TONES.get(name, number + 1)
            dashed = name == "clean twin"
            series.append(Line(name, range(len(names)), value, tone=tone, dashed=dashed))
        plot = Plot(f"{title} of poisoned and clean images", "layer", title, y_range=scale)
        last = f"The layers go from {names[0]} (0) to {names[-1]} ({len(names) - 1})."
        drawn.append(Figure(title, lines(series, plot), f"{caption} {last}"))
    return drawn
