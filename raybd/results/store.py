"""The store: Parquet tables and safetensors artefacts, in a folder or at any fsspec URL.

Its layout is the public contract of raybd:

    STORE/scores/dataset=D/attack=A/defense=F/<cell>.parquet    one row per scored sample
    STORE/cells/<cell>.parquet                                  one row per cell
    STORE/gathered/cells.parquet                                cache of the rows of all cells
    STORE/predictions/<victim>.parquet                          one row per test image
    STORE/dynamics/<victim>.parquet                             one row per epoch and group
    STORE/analysis/tool=T/<analysis>.parquet                    what a tool says of a victim
    STORE/trials/sweep=S/<trial>.parquet                        one row per trial of a sweep
    STORE/sweeps/<name>/study.journal                           Optuna's study of a sweep
    STORE/sweeps/<name>/study.sha256                            length and hash of the journal
    STORE/sweeps/<name>/identity.json                           what makes its trials comparable
    STORE/sweeps/<name>/lease/<number>.json                     which process runs it
    STORE/artifacts/<stage>/<key>/tensors.safetensors           what a stage computed
    STORE/artifacts/<stage>/<key>/manifest.json                 its facts and its checksum
    STORE/checkpoints/<key>/<name>                              of stages that are running
    STORE/experiments/<name>.yaml                               experiments, with all defaults
    STORE/experiments/<name>-<hash>.yaml                        what was run before under the name
    STORE/runs/<name>/<time>.jsonl                              log of a run, one event per line
    STORE/scans/<scan>/budget-<minutes>.json                    what a scan of own data could afford
    STORE/errors/<cell>.txt                                     tracebacks of failed cells
    STORE/damaged/...                                           files that failed a check

A file appears whole or not at all. One that carries numbers has a checksum, which is checked when
it is used. Links are not followed, and nothing is unpickled.
"""

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from raybd.results.artifacts import ArtifactStorage
from raybd.results.configurations import latest_only
from raybd.results.frames import read_frame
from raybd.results.row_cache import read_folder
from raybd.results.schemas import SCORES, TRIALS
from raybd.results.tables import TableStorage
from raybd.results.validation import CELL_RULES, SCORE_RULES, TRIAL_RULES
from raybd.results.victim_frames import victims_frame
from raybd.types.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

RAY_JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Ray sets this environment variable in the driver of a `ray job submit`."""


@dataclass(frozen=True)
class Store(ArtifactStorage, TableStorage):
    """A results folder or URL. Cheap to create and to send to another process.

    Files: raybd/results/files.py; artefacts: artifacts.py; rows: tables.py; frames: below.
    """

    def cells(
        self, experiment: str | None = None, all_configurations: bool = False
    ) -> "pd.DataFrame":
        """Return all cells, or those of one experiment, as a pandas frame.

        Of each experiment only the rows of the configuration that was run last, unless
        `all_configurations`.
        """
        table = read_folder(self, "cells", CELL_RULES)
        if experiment is not None:
            table = table.filter(pc.field("experiment") == experiment)
        frame: pd.DataFrame = table.to_pandas()
        if not all_configurations:
            frame = latest_only(frame, self)
        return frame.sort_values(
            ["experiment", "dataset", "attack", "trainer", "seed", "defense_role", "defense"],
            ignore_index=True,
        )

    def scores(self, columns: Sequence[str] | None = None, **equal: str | int) -> "pd.DataFrame":
        """Return score rows as a pandas frame, for example `scores(attack="badnets", seed=0)`.

        `equal` selects rows by the values of columns; where these are data set, attack or defense,
        only their files are read. Raises UserError for a column that does not exist.
        """
        partitions = ("dataset", "attack", "defense")
        names = [*SCORES.names, *partitions]
        for name in [*equal, *(columns or ())]:
            if name not in names:
                raise UserError(f"scores have no column {name!r}", f"Columns: {', '.join(names)}.")
        return read_frame(self, "scores", SCORE_RULES, partitions, equal, columns or names)

    def analysis(self, tool: str) -> "pd.DataFrame":
        """Return the rows of an analysis tool as a pandas frame; empty if there are none."""
        import pandas as pd

        # Each tool has columns of its own, so that there is no schema to read by.
        paths = self.files(f"analysis/tool={glob.escape(tool)}/*.parquet")
        found = [self.analysis_table(path) for path in paths]
        tables = [table for table in found if table is not None]
        if not tables:
            return pd.DataFrame()
        frame: pd.DataFrame = pa.concat_tables(tables, promote_options="default").to_pandas()
        return frame

    def predictions(self, **equal: str | int) -> "pd.DataFrame":
        """Return what victims say of test images, one row each, as a pandas frame.

        `equal` selects victims by columns of the cells table: `predictions(attack="badnets",
        defense="none", seed=0)`. Of a cell without a victim of its own, like that of a detector,
        there are no rows. Raises UserError for a column that does not exist.
        """
        return victims_frame(self, "predictions", self.cells(all_configurations=True), equal)

    def dynamics(self, **equal: str | int) -> "pd.DataFrame":
        """Return how victims did after each epoch, one row for each group of images.

        `equal` as for `predictions`.
        """
        return victims_frame(self, "dynamics", self.cells(all_configurations=True), equal)

    def trials(self, sweep: str | None = None) -> "pd.DataFrame":
        """Return all trials, or those of one sweep, as a pandas frame."""
        equal = {} if sweep is None else {"sweep": sweep}
        names = ["sweep", *TRIALS.names]
        frame = read_frame(self, "trials", TRIAL_RULES, ("sweep",), equal, names)
        return frame.sort_values(["sweep", "trial"], ignore_index=True)


def open_store(url: str) -> Store:
    """Return the store at a folder or URL.

    Raises UserError for a relative folder inside a Ray job, whose working folder is temporary.
    """
    store = Store(url)
    if store.local and not Path(url).is_absolute() and "://" not in url and in_ray_job():
        raise relative_store_error(url)
    # Absolute: the workers have working folders of their own.
    return Store(store.root) if store.local else store


def relative_store_error(url: str) -> UserError:
    """Return the error for a store that would be below the working folder of a Ray job."""
    return UserError(
        f"store {url!r} is relative, and inside a Ray job it would vanish with the job's working "
        "folder",
        "Give an absolute path that all nodes share, or a URL: --store /shared/results or "
        "--store s3://bucket/results.",
    )


def in_ray_job() -> bool:
    """Return whether this process is the driver of a `ray job submit`."""
    return RAY_JOB_VARIABLE in os.environ
