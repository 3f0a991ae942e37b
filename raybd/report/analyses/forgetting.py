"""Forgetting: how early and how surely training images are learned; what a defense undid."""

import pandas as pd

from raybd.report.analyses.figure import Figure, victims
from raybd.report.svg import Plot, Tone, bars, histograms

STATISTICS = {
    "learned_epoch": ("epoch in which it was learned", "learned_early"),
    "aum": ("mean margin", "large_margin"),
}
"""What is drawn of each image, and which AUROC says how well it tells poison."""
ROLES: dict[str, Tone] = {"clean": "clean", "poison": "poison", "cross": "cross"}
CHANGES = ("recovered", "remembered", "lost")


def draw(frame: pd.DataFrame) -> list[Figure]:
    """Return histograms by role of each victim, and bars of what each defense changed."""
    figures = []
    changed = {}
    for name, own in victims(frame):
        images = own[own["kind"] == "image"]
        if len(images):
            figures += _histograms(name, own, images)
        change = own[own["kind"] == "change"].set_index("statistic")["value"]
        if len(change):
            changed[name] = [float(change.get(word, float("nan"))) for word in CHANGES]
    if changed:
        plot = Plot(
            "After the defense",
            "",
            "share of test images",
            y_range=(0, 1),
            description="triggered images that are freed or not, and clean ones that are lost",
        )
        figures.append(
            Figure(
                "After the defense",
                bars(list(CHANGES), changed, plot),
                "Of the images that the attacker had won: given their true label again, or still "
                "the attacker's. Of the clean images that were right: wrong now.",
            )
        )
    return figures


def _histograms(name: str, own: pd.DataFrame, images: pd.DataFrame) -> list[Figure]:
    told = own[own["kind"] == "auroc"].set_index("statistic")["value"]
    figures = []
    for column, (words, statistic) in STATISTICS.items():
        samples = {
            role: images.loc[images["role"] == role, column].dropna()
            for role in ROLES
            if (images["role"] == role).any()
        }
        plot = Plot(
            f"{words}: {name}",
            words,
            "density",
            description=f"{words} of training images by role, {name}",
        )
        tones = {role: tone for role, tone in ROLES.items() if role in samples}
        caption = f"It tells poison with AUROC {told[statistic]:.3f}." if statistic in told else ""
        figures.append(Figure(f"{words}: {name}", histograms(samples, plot, tones=tones), caption))
    return figures
