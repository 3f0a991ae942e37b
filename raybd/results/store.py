"""Where results live: Parquet tables and safetensors artefacts, in a folder or at any fsspec URL. The public contract of raybd.

    STORE/scores/dataset=D/attack=A/defense=F/<cell>.parquet    one row per scored sample
    STORE/cells/<cell>.parquet                                  one row per cell
    STORE/gathered/cells.parquet                                copy of the rows of all cells, for reading them at once
    STORE/trials/sweep=S/<trial>.parquet                        one row per trial of a sweep
    STORE/sweeps/<name>/study.journal                           Optuna's study of a sweep
    STORE/artifacts/<stage>/<key>/{tensors.safetensors, manifest.json}
    STORE/checkpoints/<key>/<name>                              of stages that are running
    STORE/experiments/<name>.yaml                               what was asked, resolved, with defaults
    STORE/runs/<name>/<time>.jsonl                              what happened in a run, line by line
    STORE/errors/<cell>.txt                                     tracebacks of failed cells
    STORE/damaged/...                                           what failed a check, set aside

A file appears whole or not at all. The manifest is written last, so an artefact without one does not exist. Nothing is unpickled.
"""

import hashlib
import json
import os
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from raybd.results.files import Storage
from raybd.results.row_cache import read_folder
from raybd.results.schemas import (
    CELLS,
    SCHEMA_VERSION,
    SCORES,
    SCORES_ENCODING,
    TRIALS,
    as_parquet,
    as_small_parquet,
)
from raybd.types.errors import UserError

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

Item = TypeVar("Item", bound=Hashable)
Result = TypeVar("Result")

_AT_ONCE = 8
"""How many files are looked at at the same time."""
_MANY = 100
"""Of more artefacts than that it is quicker to list all that there are, and to look only at these."""
_JOB_MARK = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Ray sets this in the driver of a `ray job submit`."""


class Damaged(Exception):
    """A file of the store failed its check and has been set aside."""

    def __init__(self, path: str) -> None:
        super().__init__(
            f"{path} failed its check and was set aside; run the same command again to compute it anew"
        )


@dataclass(frozen=True)
class Artifact:
    """What a stage left behind."""

    tensors: Mapping[str, "Tensor"]
    manifest: Mapping[str, Any]


@dataclass(frozen=True)
class Store(Storage):
    """A results folder or URL. Cheap to make and to send to another process."""

    def save(
        self, stage: str, key: str, tensors: Mapping[str, "Tensor"], facts: Mapping[str, Any]
    ) -> None:
        """Keep what a stage computed, under its key."""
        import torch
        from safetensors.torch import save

        folder = f"artifacts/{stage}/{key}"
        data = save(
            {
                name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
                for name, tensor in tensors.items()
            }
        )
        manifest = {
            **facts,
            "schema": SCHEMA_VERSION,
            "stage": stage,
            "key": key,
            "bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
        }
        self.write(f"{folder}/tensors.safetensors", data)
        self.write(
            f"{folder}/manifest.json", json.dumps(manifest, indent=1, sort_keys=True).encode()
        )

    def manifest(self, stage: str, key: str) -> dict[str, Any]:
        """What is known about an artefact. Raises FileNotFoundError, or Damaged."""
        path = f"artifacts/{stage}/{key}/manifest.json"
        try:
            manifest: dict[str, Any] = json.loads(self.read(path))
            if manifest["schema"] > SCHEMA_VERSION:
                raise UserError(
                    f"{self.url}/{path}: written by a newer raybd (schema {manifest['schema']})",
                    "Upgrade raybd.",
                )
        except (ValueError, KeyError) as error:
            self.set_aside(Path(path).parent.as_posix(), f"manifest.json is not readable ({error})")
            raise Damaged(path) from error
        return manifest

    def load(self, stage: str, key: str) -> Artifact:
        """An artefact, checked against its manifest. Raises FileNotFoundError, or Damaged after setting it aside."""
        from safetensors.torch import load

        manifest = self.manifest(stage, key)
        data = self.read(f"artifacts/{stage}/{key}/tensors.safetensors")
        if hashlib.sha256(data).hexdigest() != manifest["sha256"]:
            self.set_aside(
                f"artifacts/{stage}/{key}",
                "tensors.safetensors does not match the sha256 in its manifest",
            )
            raise Damaged(f"artifacts/{stage}/{key}")
        return Artifact(load(data), manifest)

    def state(self, stage: str, key: str) -> Literal["ok", "missing", "damaged"]:
        """Whether an artefact can be built on: on local disks its hash is checked, elsewhere its size. Damage is set aside."""
        folder = f"artifacts/{stage}/{key}"
        path = f"{folder}/tensors.safetensors"
        try:
            manifest = self.manifest(stage, key)
            if self.local:
                sound = _file_hash(self.at(path)) == manifest["sha256"]
            else:
                sound = self.filesystem.size(self.at(path)) == manifest["bytes"]
        except Damaged:
            return "damaged"
        except FileNotFoundError:
            if not self.exists(f"{folder}/manifest.json"):
                return "missing"
            sound = False
        if not sound:
            self.set_aside(folder, "tensors.safetensors is missing or does not match its manifest")
        return "ok" if sound else "damaged"

    def states(self, artifacts: Sequence[tuple[str, str]]) -> dict[tuple[str, str], str]:
        """The state of many artefacts at once."""
        found = set(artifacts)
        if len(artifacts) > _MANY:
            found = {
                (stage, key)
                for stage in {stage for stage, _ in artifacts}
                for key in self.keys(stage)
            }
        return dict.fromkeys(artifacts, "missing") | _at_once(
            lambda item: self.state(*item), [a for a in artifacts if a in found]
        )

    def keys(self, stage: str) -> list[str]:
        """The keys of the artefacts of a stage, finished or not, sorted."""
        return sorted(self.stamps(f"artifacts/{stage}"))

    def write_scores(
        self, cell: str, dataset: str, attack: str, defense: str, columns: Mapping[str, Any]
    ) -> None:
        """Write the score rows of a cell; a repeated write replaces them."""
        table = pa.table({name: columns[name] for name in SCORES.names}, schema=SCORES)
        self.write(
            _scores_path(cell, dataset, attack, defense), as_parquet(table, **SCORES_ENCODING)
        )

    def write_cell(self, row: Mapping[str, Any]) -> None:
        """Write the row of a cell; a repeated write replaces it."""
        table = pa.Table.from_pylist([dict(row)], schema=CELLS)
        self.write(f"cells/{row['cell']}.parquet", as_small_parquet(table))

    def cell(self, cell: str) -> dict[str, Any] | None:
        """The row of a cell, if it is there and sound, its scores too; what is damaged is set aside."""
        path = f"cells/{cell}.parquet"
        try:
            row: dict[str, Any] = self._table(path).to_pylist()[0]
        except FileNotFoundError:
            return None
        except (pa.ArrowInvalid, OSError, IndexError) as error:
            self.set_aside(path, f"not a readable Parquet file ({_first_line(error)})")
            return None
        if row["n_scores"] and not self._scores_are_sound(row):
            return None
        return row

    def rows(self, cells: Collection[str]) -> dict[str, dict[str, Any]]:
        """The rows of many cells, by id, of those that are there and sound, their scores too; what is damaged is set aside."""
        if not self.exists(
            "cells"
        ):  # to make an array, even an empty one, arrow imports pandas, which takes a while
            return {}
        table = read_folder(self, "cells", CELLS)
        rows: list[dict[str, Any]] = table.filter(
            pc.is_in(table["cell"], pa.array(list(cells), pa.string()))
        ).to_pylist()
        found = {row["cell"]: row for row in rows}
        sound = _at_once(
            lambda cell: self._scores_are_sound(found[cell]),
            [cell for cell, row in found.items() if row["n_scores"]],
        )
        return {cell: row for cell, row in found.items() if sound.get(cell, True)}

    def cells(self, experiment: str | None = None) -> "pd.DataFrame":
        """All cells, or those of one experiment, as a pandas frame."""
        table = read_folder(self, "cells", CELLS)
        if experiment is not None:
            table = table.filter(pc.field("experiment") == experiment)
        frame: pd.DataFrame = table.to_pandas()
        return frame.sort_values(
            ["experiment", "dataset", "attack", "trainer", "seed", "defense_role", "defense"],
            ignore_index=True,
        )

    def scores(self, columns: Sequence[str] | None = None, **equal: str | int) -> "pd.DataFrame":
        """Score rows as a pandas frame, for instance `scores(attack="badnets", defense="spectral")`; only these files are read."""
        import pyarrow.dataset as pads

        folders = [(name, pa.string()) for name in ("dataset", "attack", "defense")]
        schema = pa.schema([*SCORES, *folders])
        chosen = None
        for name, value in equal.items():
            if name not in schema.names:
                raise UserError(
                    f"scores have no column {name!r}", f"Columns: {', '.join(schema.names)}."
                )
            term = pads.field(name) == value
            chosen = term if chosen is None else chosen & term
        return self._frame(
            "scores", schema, chosen, columns, pads.partitioning(pa.schema(folders), flavor="hive")
        )

    def write_trial(self, sweep: str, row: Mapping[str, Any]) -> None:
        """Write the row of a trial; a repeated write replaces it."""
        table = pa.Table.from_pylist([dict(row)], schema=TRIALS)
        self.write(f"trials/sweep={sweep}/{row['trial']}.parquet", as_parquet(table))

    def trial(self, sweep: str, trial: str) -> dict[str, Any] | None:
        """The row of a trial, if it is there."""
        try:
            row: dict[str, Any] = self._table(f"trials/sweep={sweep}/{trial}.parquet").to_pylist()[
                0
            ]
        except FileNotFoundError:
            return None
        return row

    def trials(self, sweep: str | None = None) -> "pd.DataFrame":
        """All trials, or those of one sweep, as a pandas frame."""
        import pyarrow.dataset as pads

        folder = pa.schema([("sweep", pa.string())])
        chosen = None if sweep is None else pads.field("sweep") == sweep
        frame = self._frame(
            "trials",
            pa.schema([*folder, *TRIALS]),
            chosen,
            None,
            pads.partitioning(folder, flavor="hive"),
        )
        return frame.sort_values(["sweep", "trial"], ignore_index=True)

    def write_experiment(self, name: str, resolved: Mapping[str, Any]) -> None:
        """Keep what was asked."""
        text = yaml.safe_dump(dict(resolved), sort_keys=False, allow_unicode=True)
        self.write(f"experiments/{name}.yaml", text.encode())

    def _scores_are_sound(self, row: Mapping[str, Any]) -> bool:
        path = _scores_path(row["cell"], row["dataset"], row["attack"], row["defense"])
        try:
            with self.filesystem.open(self.at(path), "rb") as file:
                found = pq.ParquetFile(file).metadata.num_rows
        except FileNotFoundError:
            return False
        except (pa.ArrowInvalid, OSError) as error:
            self.set_aside(path, f"not a readable Parquet file ({_first_line(error)})")
            return False
        if found != row["n_scores"]:
            self.set_aside(path, f"holds {found} rows instead of {row['n_scores']}")
            return False
        return True

    def _table(self, path: str) -> pa.Table:
        return pq.read_table(pa.BufferReader(self.read(path)))

    def _frame(
        self,
        folder: str,
        schema: pa.Schema,
        chosen: Any = None,
        columns: Sequence[str] | None = None,
        partitioning: Any = None,
    ) -> "pd.DataFrame":
        import pandas as pd
        import pyarrow.dataset as pads

        if not self.exists(folder):
            return pd.DataFrame(schema.empty_table().to_pandas())

        def read() -> pa.Table:
            found = pads.dataset(
                self.at(folder),
                schema,
                "parquet",
                filesystem=self.filesystem,
                partitioning=partitioning,
            )
            return found.to_table(columns=columns, filter=chosen)

        try:
            table = read()
        except pa.ArrowInvalid:
            self._set_unreadable_aside(folder)
            table = read()
        return pd.DataFrame(table.to_pandas())

    def _set_unreadable_aside(self, folder: str) -> None:
        for path in self.filesystem.find(self.at(folder)):
            try:
                with self.filesystem.open(path, "rb") as file:
                    pq.ParquetFile(file)
            except pa.ArrowInvalid as error:
                self.set_aside(
                    str(path)[len(self.root) + 1 :],
                    f"not a readable Parquet file ({_first_line(error)})",
                )


def _at_once(do: Callable[[Item], Result], items: Sequence[Item]) -> dict[Item, Result]:
    """What `do` finds for each of many items; each thread takes its share, for a thread's turn costs more than a small file."""
    shares = [items[i::_AT_ONCE] for i in range(_AT_ONCE)]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        results = pool.map(lambda share: [(item, do(item)) for item in share], shares)
        return dict(pair for share in results for pair in share)


def in_job() -> bool:
    """Whether this process is the driver of a `ray job submit`."""
    return _JOB_MARK in os.environ


def open_store(url: str) -> Store:
    """A store by folder or URL. Refuses a relative folder inside a Ray job, where it would vanish with the job's own folder."""
    store = Store(url)
    if store.local and not Path(url).is_absolute() and "://" not in url and in_job():
        raise UserError(
            f"store {url!r} is relative, and inside a Ray job it would vanish with the job's working folder",
            "Give an absolute path that all nodes share, or a URL: --store /shared/results or --store s3://bucket/results.",
        )
    return Store(store.root) if store.local else store


def _file_hash(path: str) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _scores_path(cell: str, dataset: str, attack: str, defense: str) -> str:
    return f"scores/dataset={dataset}/attack={attack}/defense={defense}/{cell}.parquet"


def _first_line(error: BaseException) -> str:
    return str(error).split("\n")[0]
