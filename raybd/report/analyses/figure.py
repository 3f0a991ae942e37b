"""What a drawing of an analysis hands out, and the victims that it shows beside each other.

The contract of drawings: a module `raybd/report/analyses/TOOL.py`, found by its name, has a
function `draw(frame) -> list[Figure]`. The frame has the rows of a victim, of what defenses made of
it, and of its clean twin with the same trigger, as far as they are stored: `victims` divides it.
"""

from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class Figure:
    """One picture of the page."""

    title: str
    svg: str
    """As the functions of `raybd.report.svg` return it: all text in it is escaped."""
    caption: str = ""
    """What can be seen, and how to read it: a sentence or two."""


def victims(frame: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Return the name and the rows of each victim: undefended, defended ones by name, the twin.

    Give their plots one scale, so that they can be compared.
    """
    found = [(_name(own), own) for _, own in frame.groupby(["stage", "victim"], sort=True)]
    found.sort(key=lambda one: (_place(str(one[1]["stage"].iloc[0])), one[0]))
    names = [name for name, _ in found]
    # Two of one name, like two strengths of a repair, are told apart by their keys.
    return [
        (f"{name} ({own['victim'].iloc[0][:6]})" if names.count(name) > 1 else name, own)
        for name, own in found
    ]


def _place(stage: str) -> int:
    return {"victim": 0, "twin": 2}.get(stage, 1)


def _name(own: pd.DataFrame) -> str:
    row = own.iloc[0]
    if row["stage"] == "twin":
        return "clean twin"
    return "victim" if row["stage"] == "victim" else f"after {row['method']}"
