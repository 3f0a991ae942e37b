"""Stored tables of analyses, as the stage writes them, for the tests of drawings."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import pyarrow as pa

from raybd.results.store import Store


def about(
    n: int, stage: str = "victim", attack: str = "badnets", **other: Any
) -> dict[str, list[Any]]:
    """The columns that every table begins with."""
    names = {
        "victim": f"{stage}-{attack}",
        "stage": stage,
        "network": "small_cnn",
        "dataset": "digits",
        "attack": attack,
        "method": "supervised",
        "seed": 0,
        "tool_version": 1,
    }
    return {name: [value] * n for name, value in {**names, **other}.items()}


def rows(columns: Mapping[str, Sequence[Any]], stage: str = "victim", **other: Any) -> pd.DataFrame:
    """A frame of one victim."""
    n = len(next(iter(columns.values())))
    return pd.DataFrame({**about(n, stage, **other), **columns})


def write(store: Store, tool: str, frame: pd.DataFrame) -> None:
    """Store a table under the key of its victim."""
    table = pa.Table.from_pandas(frame, preserve_index=False)
    store.write_analysis(tool, f"{tool}-{frame['victim'].iloc[0]}", table)
