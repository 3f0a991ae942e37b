"""What happens inside a cell. One stage = one file; a new file is a new kind of stage."""

import importlib
import pkgutil
from functools import cache

from raybd.cells.stage import Stage


@cache
def kinds() -> tuple[type[Stage], ...]:
    """Return all kinds of stages: the Stage class that each file of this folder defines."""
    found: list[type[Stage]] = []
    for module in pkgutil.iter_modules(__path__):
        if module.name.startswith("_"):
            continue
        values = vars(importlib.import_module(f"{__name__}.{module.name}")).values()
        found += [value for value in values if _is_kind(value, module.name)]
    return tuple(found)


def _is_kind(value: object, name: str) -> bool:
    return (
        # A name of its own: a file imports other stages, and a subclass inherits the name.
        isinstance(value, type) and issubclass(value, Stage) and value.__dict__.get("name") == name
    )
