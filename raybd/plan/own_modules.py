"""Modules of the user's own: they may lie beside the experiment file."""

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

VARIABLE = "RAYBD_MODULES"
"""Environment variable with the folders of the user's own modules, for workers elsewhere."""


def make_importable(folder: Path, raw: Any) -> None:
    """Let this process, and those that it starts, import modules from a folder.

    Nothing changes for a file without a kind with a dot. The folder comes last: no module of it
    takes the place of another one.
    """
    place = str(folder.resolve())
    if not any("." in kind for kind in kinds(raw)) or place in sys.path:
        return
    sys.path.append(place)
    for name in ("PYTHONPATH", VARIABLE):
        before = os.environ.get(name)
        os.environ[name] = f"{before}{os.pathsep}{place}" if before else place


def kinds(value: Any) -> Iterator[str]:
    """Yield the kind of every method in an experiment file, parsed or resolved."""
    if isinstance(value, Mapping):
        if isinstance(value.get("kind"), str):
            yield value["kind"]
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from kinds(inner)
