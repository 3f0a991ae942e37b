"""Reads pages of the documentation, and does what they tell the reader to do."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.paths import REPO

DOCS = REPO / "docs"
TUTORIALS = sorted((DOCS / "tutorials").glob("*.md"))
_BLOCK = re.compile(
    r'^```(?P<language>\w+)(?: title="(?P<title>[^"]+)")?\n(?P<text>.*?)^```', re.S | re.M
)
_INTERPRETERS = {
    "bash": ["bash", "-euo", "pipefail", "-c"],
    "python": [sys.executable, "-c"],
}


@dataclass(frozen=True)
class Block:
    """A block of code of a page."""

    language: str
    title: str | None
    """Name of the file that it is the content of."""
    text: str


def blocks(page: Path) -> Iterator[Block]:
    """Yield the blocks of a page."""
    for found in _BLOCK.finditer(page.read_text(encoding="utf-8")):
        yield Block(found["language"], found["title"], found["text"])


def follow(page: Path, folder: Path) -> None:
    """Do what a page says in an empty folder: write its files, run its commands and its Python.

    Raises AssertionError for a command that fails.
    """
    hidden = ("RAY_ADDRESS", "RAYBD_STORE", "PYTHONPATH")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    # The package of this checkout, wherever another one is installed.
    environment |= {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(REPO),
    }
    for block in blocks(page):
        if block.title is not None:
            path = folder / block.title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
            continue
        if block.language not in _INTERPRETERS:
            continue
        done = subprocess.run(
            [*_INTERPRETERS[block.language], block.text],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, f"{block.text}{done.stdout}{done.stderr}"
