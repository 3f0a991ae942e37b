"""Data sets as stages read them: their content is that of the plan, or nothing is computed."""

import os
import platform
from typing import cast

from raybd.cells.stage import content_hash
from raybd.registry import Method
from raybd.types.data import Dataset
from raybd.types.errors import UserError
from raybd.types.methods import DatasetMethod


def data_key(method: Method, fingerprint: str) -> str:
    """Return the hash of a data set's content and split, as it stands in the keys of stages."""
    return content_hash(method.describe(), fingerprint)


def load_data(method: Method, planned: str) -> Dataset:
    """Read a data set for stages whose keys hold the hash `planned`.

    Everything that reads images for a stage calls this: a process, a task of a grid, a trial.
    Raises UserError that names both hashes if the content is another one.
    """
    config = cast(DatasetMethod, method.config)
    dataset = config.load()
    # Hashed after the images were read, so that a file that was replaced meanwhile is found, too.
    found = data_key(method, config.source().fingerprint)
    if found != planned:
        raise UserError(
            f"{method.name}: the data read on {platform.node()}{_place(config)} is not that of the "
            f"plan: its hash is {found}, the plan's is {planned}",
            "A file was replaced since the plan was made, or this node has another folder there. "
            "Put the same files at the same place on all nodes, and run the same command again.",
            exit_code=1,
        )
    return dataset


def _place(config: DatasetMethod) -> str:
    """Return where a data set lies, as far as that is known."""
    values = dict(config)
    paths = [
        str(values[name])
        for name, info in type(config).model_fields.items()
        if info.exclude and values[name] is not None
    ]
    if paths:
        return f" from {', '.join(paths)}"
    root = os.environ.get("RAYBD_DATA")
    return f" (RAYBD_DATA is {root})" if root else ""
