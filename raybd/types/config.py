"""The base class of everything that an experiment file can set."""

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from raybd.types.errors import Infeasible as Infeasible
from raybd.types.errors import UserError as UserError


class Config(BaseModel):
    """What to run: frozen, hashable, JSON. A method is one subclass whose fields are its hyperparameters."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, use_attribute_docstrings=True
    )

    version: ClassVar[int] = 1
    """Part of every stage key: raise it when a change of the code changes the numbers."""
    intermediate_metrics: ClassVar[tuple[str, ...]] = ()
    """Metrics that it reports after each epoch, by which a sweep may stop it early."""


def searched(**space: Any) -> dict[str, Any]:
    """The `json_schema_extra` of a field that a sweep may search: choices=[...], or low=, high= and log=True."""
    return {"search": space}
