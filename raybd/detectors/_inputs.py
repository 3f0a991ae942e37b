"""What detectors of inputs share: who can use them, and which trusted images they learn from."""

import torch
from torch import Generator

from raybd.types.data import Split
from raybd.types.errors import Infeasible, UserError
from raybd.types.models import Victim


def halves(clean: Split, fewest: int, kind: str, rng: Generator) -> tuple[Split, Split]:
    """Return two random halves of the trusted images: to learn from, and for the threshold.

    The second has the odd one. Raises UserError for fewer than `fewest` images.
    """
    if len(clean) < fewest:
        raise UserError(
            f"{kind}: {len(clean)} clean images", f"Give it at least {fewest}.", exit_code=1
        )
    order = torch.randperm(len(clean), generator=rng)
    half = len(clean) // 2
    return clean.select(order[:half]), clean.select(order[half:])


def needs_classes(victim: Victim, kind: str) -> None:
    """Raise Infeasible if a victim has no head, and so predicts no classes."""
    if victim.head is None:
        raise Infeasible(f"{kind} needs a classifier: an encoder has no classes")
