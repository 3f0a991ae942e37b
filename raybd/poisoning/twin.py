"""The clean twin, as attacks on classifiers use it."""

from torch import nn

from raybd.types.errors import UserError
from raybd.types.models import Victim


def classifier(kind: str, twin: Victim | None) -> tuple[Victim, nn.Linear]:
    """Return the clean twin and its head. Raises UserError if its head is no linear layer."""
    if twin is None or not isinstance(twin.head, nn.Linear):
        raise UserError(
            f"{kind}: the clean twin does not end in a linear head",
            "Use a trainer of classifiers.",
            exit_code=1,
        )
    return twin, twin.head
