"""Dynamics: accuracies, losses and the gap between them, over the epochs of a training."""

import pandas as pd

from raybd.report.analyses.figure import Figure, victims
from raybd.report.svg import Line, Plot, Tone, lines

SHARES = {
    "clean accuracy": ("test_clean", "accuracy", 0),
    "attack success": ("test_triggered", "success", 1),
}
GROUPS: dict[str, Tone] = {"clean": "clean", "poison": "poison", "cross": "cross"}
"""The groups of the training set, and their colours."""


def draw(frame: pd.DataFrame) -> list[Figure]:
    """Return for each training of each victim: shares, losses with their bands, and the gap."""
    figures = []
    for victim, own in victims(frame):
        for training, rows in own.groupby("training", sort=False):
            several = own["training"].nunique() > 1
            name = f"{victim}: {training}" if several else victim
            figures += _of_training(name, rows)
    return figures


def _of_training(name: str, rows: pd.DataFrame) -> list[Figure]:
    shares = [
        Line(word, of["epoch"], of[column], tone=tone)
        for word, (group, column, tone) in SHARES.items()
        if len(of := rows[rows["group"] == group])
    ]
    gap = rows[(rows["group"] == "poison") & rows["gap_auroc"].notna()]
    if len(gap):
        shares.append(Line("loss gap (AUROC)", gap["epoch"], gap["gap_auroc"], tone=2, dashed=True))
    losses = [
        Line(
            word,
            of["epoch"],
            of["loss_q50"],
            tone=tone,
            low=of["loss_q10"],
            high=of["loss_q90"],
        )
        for word, tone in GROUPS.items()
        if len(of := rows[rows["group"] == word])
    ]
    plot = Plot(
        f"Learned: {name}",
        "epoch",
        "share",
        y_range=(0, 1),
        description=f"clean accuracy, attack success and the gap of losses by epoch, {name}",
    )
    of_losses = Plot(
        f"Losses: {name}",
        "epoch",
        "loss, median and 10 to 90 %",
        description=f"losses of each group of training images by epoch, {name}",
    )
    return [
        Figure(f"Learned: {name}", lines(shares, plot), _lead(rows)),
        Figure(
            f"Losses: {name}",
            lines(losses, of_losses, zero=True),
            "Defenses that isolate low losses need poison to lie below clean images.",
        ),
    ]


def _lead(rows: pd.DataFrame) -> str:
    """What is said of how far the backdoor is ahead."""
    first = rows.iloc[0]
    said = []
    if pd.notna(first["lead"]):
        lead = int(first["lead"])
        when = f"{abs(lead)} epochs {'before' if lead > 0 else 'after'}" if lead else "with"
        said.append(f"The backdoor is learned {when} the task.")
    if pd.notna(first["gap_max"]):
        said.append(
            f"The gap is largest after epoch {int(first['gap_max_epoch'])}: "
            f"AUROC {first['gap_max']:.3f}."
        )
    return " ".join(said)
