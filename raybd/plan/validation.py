"""What is wrong with a field of a file, in words of its user."""

from collections.abc import Iterable
from typing import get_args

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from raybd.registry import did_you_mean
from raybd.types.config import Config
from raybd.types.errors import UserError


def user_error(
    error: ValidationError, where: str, model: type[Config], also: Iterable[str] = ()
) -> UserError:
    """Return what is wrong with the first field that was refused, and what to do.

    `also` names keys that an entry may have besides the model's fields.
    """
    # Only the first: what follows is often a consequence of it.
    first = error.errors()[0]
    place = "".join(
        f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]
    ).lstrip(".")
    field = str(first["loc"][0]) if first["loc"] else ""
    at = where
    if place:
        at = f"{where}.{place}" if "[" in where else f"{where}: {place}"

    if first["type"] == "extra_forbidden":
        known = [*model.model_fields, *also]
        return UserError(f"{at}: unknown field", did_you_mean(field, known))
    if first["type"] == "missing":
        return UserError(f"{at}: missing", "Add it; see configs/ for examples.")

    if first["type"].startswith("union_tag"):
        return _tag_error(first, at, model)

    # The beginnings that pydantic adds say nothing to a user.
    message = first["msg"].removeprefix("Input ").removeprefix("Value error, ")
    info = model.model_fields.get(field)
    doc = f" {field}: {info.description}" if info is not None and info.description else ""
    return UserError(f"{at}: {message} (got {first['input']!r})", f"Change the value.{doc}")


def _tag_error(first: ErrorDetails, at: str, model: type[Config]) -> UserError:
    """Return the error of a mapping whose tag (like `map` of `labels`) is missing or unknown."""
    tag = first["ctx"]["discriminator"].strip("'")
    field = model.model_fields.get(str(first["loc"][0])) if first["loc"] else None
    known = _tags(field, tag)
    if first["type"] == "union_tag_invalid":
        found = str(first["ctx"]["tag"])
        return UserError(f"{at}.{tag}: {found!r} is unknown", did_you_mean(found, known))
    example = ", ".join(f"{name}: {value}" for name, value in first["input"].items())
    return UserError(
        f"{at}.{tag}: missing (got {first['input']!r})",
        f"Add it: {{{tag}: {known[0] if known else '...'}, {example}}}. Known: {', '.join(known)}.",
    )


def _tags(field: FieldInfo | None, tag: str) -> list[str]:
    """Return the values of a tag that the kinds of a field have."""
    kinds = get_args(field.annotation) if field is not None else ()
    return [str(kind.model_fields[tag].default) for kind in kinds if tag in kind.model_fields]
