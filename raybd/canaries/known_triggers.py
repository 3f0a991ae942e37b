"""Known triggers in copies of suspects: what a procedure finds of an attack that is known.

In the manner of canaries.py, but planted over the suspects themselves, at a rate that is asked for:
trusted images are too few for a rate. Whatever stood in a row, poison too, makes way in that copy.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from raybd.canaries.triggers import Family, blend, patch, sinusoid, warp
from raybd.poisoning.label_maps import NoTarget
from raybd.poisoning.overlay import same_role
from raybd.types.data import POISON, LabelMap, Poisoned
from raybd.types.errors import Infeasible
from raybd.types.methods import Attack, AttackInput

Kind = Literal["patch", "blend", "sinusoid", "warp"]
Strength = Literal["faint", "strong"]
_STRENGTHS: dict[Strength, float] = {"faint": 0.0, "strong": 1.0}
_FAMILIES: dict[Kind, Family] = {"patch": patch, "blend": blend, "sinusoid": sinusoid, "warp": warp}


class KnownTriggers(Attack):
    """Give each kind of trigger to a share of the training set, with a wrong label of its own."""

    # Success is not measured: what counts is how many of the planted images are found.
    has_trigger: ClassVar[bool] = False
    kinds: tuple[Kind, ...] = Field(("patch", "blend"), min_length=1)
    """The kinds of triggers; each has its own images and its own label."""
    strength: Strength | None = None
    """How clear the triggers are: the faintest of their kind, the strongest, or drawn between."""
    rate: float = Field(0.03, gt=0, le=0.2)
    """Share of the first `among` images that each kind is given."""
    among: int | None = Field(None, ge=2)
    """Only the first so many images may be planted; None: all."""

    @property
    def label_map(self) -> LabelMap:
        """A map that counts no test image."""
        return NoTarget()

    @property
    def poison_rate(self) -> float:
        """The share of all kinds together."""
        return self.rate * len(self.kinds)

    def choose(self, y_N: Tensor, num_classes: int, rng: Generator) -> Tensor:
        """Return the rows of all kinds, ascending. Raises Infeasible."""
        return torch.cat([rows_M for rows_M, _ in self._drawn(y_N, rng)]).sort().values

    def poison(self, given: AttackInput, rng: Generator) -> Poisoned:
        """Plant all kinds; the state `kind_M` says which kind each row has. Raises Infeasible."""
        train = given.train
        drawn = self._drawn(train.y_N, rng)
        strength = None if self.strength is None else _STRENGTHS[self.strength]
        planted = [
            _FAMILIES[kind](train.x_NCHW[:1].shape, rng, strength)(train.x_NCHW[rows_M].float())
            for kind, (rows_M, _) in zip(self.kinds, drawn, strict=True)
        ]
        index_M = torch.cat([rows_M for rows_M, _ in drawn])
        kind_M = torch.arange(len(self.kinds)).repeat_interleave(len(drawn[0][0]))
        return Poisoned(
            index_M=index_M,
            # Rounded, because a cast would cut the fraction off and darken the image.
            x_MCHW=torch.cat(planted).clamp(0, 255).round().to(torch.uint8),
            y_M=torch.cat([torch.full_like(rows_M, label) for rows_M, label in drawn]),
            role_M=same_role(index_M, POISON),
            trigger=lambda x_NCHW, wanted_N: x_NCHW.clone(),
            labels=self.label_map,
            state={"kind_M": kind_M},
        )

    def stamp(self, x_NCHW: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return copies of the images: no test image wears a trigger."""
        return x_NCHW.clone()

    def _drawn(self, y_N: Tensor, rng: Generator) -> list[tuple[Tensor, int]]:
        """Return rows and label of each kind: rows of other classes, each row once."""
        y_N = y_N[: self.among]
        classes = y_N.unique()
        count = round(self.rate * len(y_N))
        if count == 0 or len(classes) < 2:
            raise Infeasible(
                f"{count} of {len(y_N)} images of {len(classes)} classes can't be planted"
            )
        labels = classes[torch.randperm(len(classes), generator=rng)]
        order = torch.randperm(len(y_N), generator=rng)
        drawn = []
        for place in range(len(self.kinds)):
            # With fewer classes than kinds, two kinds share a label.
            label = int(labels[place % len(labels)])
            rows_M = order[y_N[order] != label][:count]
            if len(rows_M) < count:
                raise Infeasible(f"there are fewer than {count} images outside of class {label}")
            drawn.append((rows_M, label))
            order = order[~torch.isin(order, rows_M)]
        return drawn
