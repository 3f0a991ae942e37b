"""What is wrong with a field of a file, in words of its user."""

from collections.abc import Iterable

from pydantic import ValidationError

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
    at = f"{where}.{place}" if "[" in where else f"{where}: {place}"

    if first["type"] == "extra_forbidden":
        known = [*model.model_fields, *also]
        return UserError(f"{at}: unknown field", did_you_mean(field, known))
    if first["type"] == "missing":
        return UserError(f"{at}: missing", "Add it; see configs/ for examples.")

    # The beginnings that pydantic adds say nothing to a user.
    message = first["msg"].removeprefix("Input ").removeprefix("Value error, ")
    info = model.model_fields.get(field)
    doc = f" {field}: {info.description}" if info is not None and info.description else ""
    return UserError(f"{at}: {message} (got {first['input']!r})", f"Change the value.{doc}")
