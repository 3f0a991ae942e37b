"""Given: a training set that somebody else has poisoned, with flags that say which images.

The data set names its flags: `poison_list`, a file of names, or `poison_column`, a column of a
Parquet file. Nothing is drawn and nothing is changed. The trigger is not at hand, so that there is
no attack success; the labels that the poisoned images had before are not known either.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Generator, Tensor

from raybd.poisoning.label_maps import NoTarget
from raybd.poisoning.overlay import untouched
from raybd.types.data import POISON, LabelMap, Poisoned
from raybd.types.errors import UserError
from raybd.types.methods import Attack, AttackInput, RateBasis


class Given(Attack):
    """Take the poison that the flags of the data set tell."""

    rate_basis: ClassVar[RateBasis | None] = None
    has_trigger: ClassVar[bool] = False
    reads_flags: ClassVar[bool] = True

    @property
    def label_map(self) -> LabelMap:
        """A map that counts no image: without the trigger there is no attack success."""
        return NoTarget()

    def choose(self, y_N: Tensor, num_classes: int, rng: Generator) -> Tensor:
        """Return no rows: the flags tell them, not the labels."""
        return torch.empty(0, dtype=torch.int64)

    def poison(self, given: AttackInput, rng: Generator) -> Poisoned:
        """Return an overlay of the flagged images as they are. Raises UserError without flags."""
        if given.role_N is None:
            raise UserError(
                "given: the data set has no flags of poison",
                "Name them in its entry: `poison_list` or `poison_column`.",
                exit_code=1,
            )
        flagged_M = torch.nonzero(given.role_N).flatten()
        # Poison comes first, so that a gallery of the first rows shows the trigger.
        index_M = flagged_M[torch.argsort((given.role_N[flagged_M] != POISON).int(), stable=True)]
        return replace(
            untouched(self, given),
            index_M=index_M,
            x_MCHW=given.train.x_NCHW[index_M],
            y_M=given.train.y_N[index_M],
            role_M=given.role_N[index_M],
        )

    def stamp(self, x_NCHW: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return copies of the images: the trigger is not at hand."""
        # A copy all the same: a caller may write into what a stamp returns.
        return x_NCHW.clone()
