"""The base class of everything that an experiment file can set."""

from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

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

    version: ClassVar[int] = 1
    """Part of every stage key: raise it when a change of the code changes the numbers."""
    intermediate_metrics: ClassVar[tuple[str, ...]] = ()
    """Metrics that are available after each epoch, so that a sweep may stop a trial early."""

    def refused(self, side: int) -> str | None:
        """Return why these values cannot be used on images of this side, in pixels, if so."""
        return None


def searched(**space: Any) -> dict[str, Any]:
    """Return the `json_schema_extra` of a field that a sweep may search.

    Give choices=[...], or low=, high= and log=True.
    """
    return {"search": space}
