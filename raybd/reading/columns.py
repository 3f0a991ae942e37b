"""The columns of a Parquet file that hold images and labels, and the names of its classes."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa

from raybd.reading.classes import checked_names
from raybd.types.errors import UserError

IMAGE_COLUMNS = ("image", "img", "images", "picture", "pixel_values", "jpg", "png")
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "target", "category")
"""Names by which a column is found, in this order."""


def image_column(path: Path, schema: pa.Schema, asked: str | None) -> str:
    """Return the column of the images: the one asked for, else one known by name or kind."""
    if asked is not None:
        return _checked_image(path, schema, _present(path, schema, asked, "image_column"))
    marked = [name for name, kind in _features(schema).items() if kind.get("_type") == "Image"]
    # Field by field: a name may be there twice.
    able = [field.name for field in schema if _can_be_image(field.type, named=False)]
    known = [name for name in IMAGE_COLUMNS if name in schema.names]
    for found in (known[:1], marked, able):
        if len(found) == 1:
            return _checked_image(path, schema, _present(path, schema, found[0], "image_column"))
    raise _not_found(path, schema, "image", IMAGE_COLUMNS)


def label_column(path: Path, schema: pa.Schema, asked: str | None) -> str:
    """Return the column of the labels: the one asked for, else one known by name or kind."""
    if asked is not None:
        return _present(path, schema, asked, "label_column")
    marked = [name for name, kind in _features(schema).items() if kind.get("_type") == "ClassLabel"]
    known = [name for name in LABEL_COLUMNS if name in schema.names]
    for found in (known[:1], marked):
        if len(found) == 1:
            return _present(path, schema, found[0], "label_column")
    raise _not_found(path, schema, "label", LABEL_COLUMNS)


def poison_column(path: Path, schema: pa.Schema, asked: str) -> str:
    """Return the column of flags. Raises UserError if there is none of this name."""
    return _present(path, schema, asked, "poison_column")


def class_names(path: Path, schema: pa.Schema, column: str) -> tuple[str, ...] | None:
    """Return the class names, if the `datasets` library wrote the file. Raises UserError."""
    where = f"{path}: column {column!r}"
    try:
        stored: Any = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        for key in ("info", "features", column, "names"):
            stored = stored.get(key) or {}
    # A file of any other program may hold anything there.
    except (ValueError, AttributeError, RecursionError):
        raise _bad_names(where) from None
    if not stored:
        return None
    if not isinstance(stored, list) or not all(isinstance(name, str) for name in stored):
        raise _bad_names(where)
    return checked_names(stored, where)


def _features(schema: pa.Schema) -> dict[str, dict[str, Any]]:
    """Return what the `datasets` library says of each column; empty if there is nothing sound."""
    try:
        found = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        return {name: kind for name, kind in found.items() if isinstance(kind, dict)}
    # What is wrong with it is said where the names of classes are read.
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _present(path: Path, schema: pa.Schema, column: str, field: str) -> str:
    if schema.names.count(column) == 1:
        return column
    found = "several columns" if column in schema.names else "no column"
    raise UserError(
        f"{path}: {found} {column!r} among {', '.join(schema.names)}",
        f"Rename it in the file, or use kind `parquet` with `{field}`.",
    )


def _checked_image(path: Path, schema: pa.Schema, column: str) -> str:
    kind = schema.field(column).type
    if not _can_be_image(kind, named=True):
        raise UserError(
            f"{path}: column {column!r} holds {kind}, not images",
            "Store each image as struct(bytes, path), the Hugging Face layout, as its encoded "
            "bytes, or as the path of its file.",
        )
    return column


def _can_be_image(kind: pa.DataType, named: bool) -> bool:
    """Return whether a column may hold images. Texts may be paths, if its name says so."""
    if pa.types.is_struct(kind):
        place = kind.get_field_index("bytes")
        return place >= 0 and _is_binary(kind.field(place).type)
    return _is_binary(kind) or (named and is_text(kind))


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def is_text(kind: pa.DataType) -> bool:
    """Return whether a column holds texts, perhaps as a dictionary of words."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _not_found(path: Path, schema: pa.Schema, what: str, known: tuple[str, ...]) -> UserError:
    return UserError(
        f"{path}: no column {what!r} among {', '.join(schema.names)}",
        f"Name it by `{what}_column`, or call it one of {', '.join(known)}.",
    )


def _bad_names(where: str) -> UserError:
    return UserError(
        f"{where}: its class names in the metadata `huggingface` are no list of texts",
        "Write the file with the `datasets` library, or without this metadata.",
    )
