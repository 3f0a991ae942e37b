"""Which rows of an experiment belong together: those of one resolved configuration.

After `--set`, or a change of the file, one name holds rows of two configurations, whose mean means
nothing. Each row has the id of the latest configuration that it belongs to (`config_id`), and the
experiment's file in the store names the configuration that was run last.
"""

import re
from typing import TYPE_CHECKING

from raybd.results.files import FileStorage
from raybd.results.parquet import Unsound

if TYPE_CHECKING:
    import pandas as pd

MAX_EXPERIMENT_BYTES = 2**22
"""Size of an experiment's file, with all defaults."""
_FIRST_LINE = re.compile(rb"# configuration: (\w+)\n")


def first_line(config_id: str) -> str:
    """Return the line that says in an experiment's file which configuration it is."""
    return f"# configuration: {config_id}\n"


def without_first_line(text: bytes) -> bytes:
    """Return the experiment itself, without the line that names its configuration."""
    return _FIRST_LINE.sub(b"", text, count=1)


def latest_only(cells: "pd.DataFrame", storage: FileStorage) -> "pd.DataFrame":
    """Return the rows of the latest configuration of each experiment, in their order."""
    kept = cells["cell"].notna()
    for experiment, rows in cells.groupby("experiment", sort=False):
        if rows["config_id"].nunique(dropna=False) > 1:
            kept[rows.index] = rows["config_id"] == _latest(str(experiment), rows, storage)
    return cells[kept].reset_index(drop=True)


def _experiment_file(experiment: str, storage: FileStorage) -> bytes:
    """Return an experiment's file; nothing if there is none, or if it is none of ours."""
    try:
        return storage.read(f"experiments/{experiment}.yaml", MAX_EXPERIMENT_BYTES)
    except (FileNotFoundError, Unsound):
        return b""


def _latest(experiment: str, rows: "pd.DataFrame", storage: FileStorage) -> str:
    """Return the configuration that was run last: by the experiment's file, or by its rows."""
    found = _FIRST_LINE.match(_experiment_file(experiment, storage))
    named = found[1].decode() if found else ""
    if (rows["config_id"] == named).any():
        return named
    # `run_cell` writes no file. Rows of older versions belong to no known configuration.
    known = rows[rows["config_id"].notna()]
    return str(known.sort_values("finished_at")["config_id"].iloc[-1])
