"""What a bundle must not tell: absolute paths, names of users and machines, access tokens."""

import getpass
import gzip
import re
import socket
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

_ROOTS = (
    "home|root|Users|tmp|work|workspace|mnt|media|data|scratch|var|opt|srv|usr|etc|private|"
    "gpfs|lustre|storage|nfs|content|kaggle|cluster|shared"
)
_PATH = re.compile(rf"(?<![\w./:+=-])/(?:{_ROOTS})(?:/[\w.~+@=-]+)+|\b[A-Za-z]:\\[\w\\.~-]+")
_TOKEN = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|AKIA[A-Z0-9]{16}|"
    r"sk-[A-Za-z0-9_-]{20,}|xox[bap]-[A-Za-z0-9-]{10,}|glpat-[\w-]{20,})\b"
)
_SHORT = 4
"""Letters that a name must have to be looked for: shorter ones occur in any text."""
_COMMON = frozenset(["root", "user", "admin", "ubuntu", "localhost", "runner"])
"""Names that tell nothing about anybody."""
_TEXT = (".json", ".yaml", ".cff", ".md", ".txt", ".html", ".js", ".csv", "")


def scrubbed(text: str) -> str:
    """Return a text with the last part of each path only, and without names and tokens."""
    text = _PATH.sub(lambda found: re.split(r"[/\\]", found[0])[-1], text)
    text = _TOKEN.sub("TOKEN", text)
    for name in _names():
        text = re.sub(rf"\b{re.escape(name)}\b", "NAME", text)
    return text


def scrubbed_table(table: pa.Table) -> pa.Table:
    """Return a table with each text scrubbed."""
    columns = []
    for column in table.columns:
        values = column
        if pa.types.is_string(column.type) or pa.types.is_dictionary(column.type):
            # A word repeats in many rows: each is looked at once.
            known: dict[Any, Any] = {}
            texts = column.cast(pa.string()).to_pylist()
            for text in set(texts):
                known[text] = None if text is None else scrubbed(text)
            values = pa.array([known[text] for text in texts], pa.string()).cast(column.type)
        columns.append(values)
    return pa.Table.from_arrays(columns, schema=table.schema)


def private_in(path: Path) -> str | None:
    """Return what a file tells that it must not, in a few words; None if there is nothing."""
    for text in _texts(path):
        for kind, pattern in (("a path", _PATH), ("a token", _TOKEN)):
            found = pattern.search(text)
            if found:
                # A token must not be printed again.
                return kind if kind == "a token" else f"{kind} ({found[0]})"
        for name in _names():
            if re.search(rf"\b{re.escape(name)}\b", text):
                return f"the name of a user or a machine ({name})"
    return None


def _texts(path: Path) -> list[str]:
    data = path.read_bytes()
    if path.suffix == ".gz":
        return [gzip.decompress(data).decode(errors="replace")]
    if path.suffix == ".parquet":
        table = pq.read_table(BytesIO(data))
        found = [str(table.schema.metadata or "")]
        for column in table.columns:
            if pa.types.is_string(column.type) or pa.types.is_dictionary(column.type):
                unique = column.cast(pa.string()).unique().to_pylist()
                found.append("\n".join(text for text in unique if text is not None))
        return found
    if path.suffix == ".safetensors":
        # The header is JSON; the rest is numbers.
        length = int.from_bytes(data[:8], "little")
        return [data[8 : 8 + length].decode(errors="replace")]
    return [data.decode(errors="replace")] if path.suffix in _TEXT else []


def _names() -> list[str]:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        # A container may run as a user that has no name.
        user = ""
    names = {user, socket.gethostname(), socket.gethostname().split(".")[0]}
    return sorted(name for name in names if len(name) >= _SHORT and name.lower() not in _COMMON)
