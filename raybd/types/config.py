"""The base class of everything that an experiment file can set."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, get_origin

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic.fields import FieldInfo

Precision = Literal["fp32"]
"""What an experiment can pin. It cannot pin bf16, in which each kind of hardware computes in its
own way: a GPU, a processor with AMX, one with avx512_bf16."""


class Config(BaseModel):
    """What to run: frozen, hashable, JSON.

    A method is one subclass whose fields are its hyperparameters.
    """

    model_config = ConfigDict(
        frozen=True,
        # A misspelled field must be an error, not a default that nobody asked for.
        extra="forbid",
        # Defaults are converted like values from a file, so that equal values give equal keys.
        validate_default=True,
        # Messages about a wrong value, and the pages of methods, say what a field means.
        use_attribute_docstrings=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _single_values_as_lists(cls, values: Any) -> Any:
        """Take a single value for a list, like `seeds: 0`, as a list of it."""
        if not isinstance(values, Mapping):
            return values
        return {
            name: [value] if _needs_list(cls.model_fields.get(name), value) else value
            for name, value in values.items()
        }

    version: ClassVar[int] = 1
    """Part of every stage key: raise it when a change of the code changes the numbers."""
    intermediate_metrics: ClassVar[tuple[str, ...]] = ()
    """Metrics that are available after each epoch, so that a sweep may stop a trial early."""

    def refused(self, side: int) -> str | None:
        """Return why these values cannot be used on images of this side, in pixels, if so."""
        return None


def _needs_list(field: FieldInfo | None, value: Any) -> bool:
    is_list = field is not None and get_origin(field.annotation) is tuple
    return is_list and isinstance(value, str | int | float | Mapping)


def searched(**space: Any) -> dict[str, Any]:
    """Return the `json_schema_extra` of a field that a sweep may search.

    Give choices=[...], or low=, high= and log=True.
    """
    return {"search": space}
