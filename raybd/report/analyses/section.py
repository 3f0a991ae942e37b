"""The section of the report about analyses: per tool and victim, its pictures, or else a table."""

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pandas as pd

from raybd.report.analyses.figure import Figure
from raybd.results.store import Store

MOST_VICTIMS = 12
"""Victims of a tool that are drawn. Their clean twins are drawn with them, and do not count."""
MOST_ROWS = 12
"""Rows of a table that are shown."""
_GROUP = ["dataset", "network", "attack", "seed"]
"""What a victim, its repaired copies and its twin have in common."""
_ABOUT = ["victim", "network", "dataset", "attack", "seed", "tool_version"]


@dataclass(frozen=True)
class Group:
    """A victim of one attack with what defenses made of it, and the twin."""

    name: str
    figures: tuple[Figure, ...] = ()
    rows: pd.DataFrame | None = None
    """The first rows, where there is no picture."""
    n: int = 0
    """Number of all rows."""


@dataclass(frozen=True)
class Tool:
    """What one tool says of the victims of a store."""

    name: str
    groups: tuple[Group, ...]
    left: int
    """Victims that are not shown."""


def find_tools(store: Store) -> list[Tool]:
    """Return what the tools say, by name. Unreadable tables are set aside."""
    names = sorted({_tool(path) for path in store.files("analysis/*/*.parquet")})
    found = [(name, store.analysis(name)) for name in names]
    return [_shown(name, frame) for name, frame in found if len(frame)]


def _tool(path: str) -> str:
    return path.split("/")[1].removeprefix("tool=")


def _shown(name: str, frame: pd.DataFrame) -> Tool:
    draw = drawing(name)
    groups = []
    left = 0
    room = MOST_VICTIMS
    for words, rows in _groups(frame):
        keys = list(dict.fromkeys(rows.loc[rows["stage"] != "twin", "victim"]))
        kept = keys[:room]
        left += len(keys) - len(kept)
        room -= len(kept)
        if kept:
            own = rows[rows["victim"].isin(kept) | (rows["stage"] == "twin")]
            groups.append(_group(words, own, draw))
    return Tool(name, tuple(groups), left)


def _groups(frame: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield the name and the rows of each group, undefended victims first."""
    first = frame.assign(_defended=~frame["stage"].isin(["victim"]))
    first = first.sort_values([*_GROUP, "_defended"], kind="stable").drop(columns="_defended")
    for (dataset, network, attack, seed), rows in first.groupby(_GROUP, sort=True):
        yield f"{attack} on {dataset}, {network}, seed {seed}", rows


def drawing(tool: str) -> Callable[[pd.DataFrame], list[Figure]] | None:
    """Return what draws a tool's table, if there is a file for it."""
    # A kind of a user's own has a dot, and no drawing.
    if not tool.isidentifier() or importlib.util.find_spec(f"{__package__}.{tool}") is None:
        return None
    module = importlib.import_module(f"{__package__}.{tool}")
    found: Callable[[pd.DataFrame], list[Figure]] | None = vars(module).get("draw")
    return found


def _group(
    name: str, rows: pd.DataFrame, draw: Callable[[pd.DataFrame], list[Figure]] | None
) -> Group:
    figures: tuple[Figure, ...] = ()
    if draw is not None:
        try:
            figures = tuple(draw(rows.reset_index(drop=True)))
        except (KeyError, TypeError, ValueError):
            # The table may be of another version of the tool: it is shown as it is.
            figures = ()
    if figures:
        return Group(name, figures, n=len(rows))
    plain = rows.drop(columns=[column for column in _ABOUT if column in rows])
    return Group(name, rows=plain.head(MOST_ROWS), n=len(rows))
