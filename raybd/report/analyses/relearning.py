"""Re-learning: attack success after each step, a line for each victim and for the twin."""

import pandas as pd

from raybd.report.analyses.figure import Figure, victims
from raybd.report.svg import Line, Plot, Tone, lines

_TONES: dict[str, Tone] = {"victim": "poison", "clean twin": "clean"}


def draw(frame: pd.DataFrame) -> list[Figure]:
    """Return attack success, and clean accuracy, after each step."""
    shown = victims(frame)
    drawn = []
    for column, words in (("attack_success", "attack success"), ("clean_accuracy", "accuracy")):
        series = [
            Line(
                name,
                own["step"],
                own[column],
                tone=_TONES.get(name, number + 1),
                dashed=name == "clean twin",
            )
            for number, (name, own) in enumerate(shown)
        ]
        plot = Plot(
            words.capitalize(),
            "step",
            words,
            y_range=(0, 1),
            description=f"{words} after each step of re-learning, a line for each victim",
        )
        drawn.append(Figure(words.capitalize(), lines(series, plot), _CAPTIONS[column]))
    return drawn


_CAPTIONS = {
    "attack_success": "A repair that left the backdoor in place lets it return faster than the "
    "clean twin learns it.",
    "clean_accuracy": "Re-learning should cost little of it: clean images are part of each step.",
}
