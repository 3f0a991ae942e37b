"""UBA: a trigger for every class, a code in which similar classes share bits, from few poison.

Schneider, Lukas and Kerschbaum 2024, Universal Backdoor Attacks, ICLR 2024, section on encoding the
features of classes in a trigger.
Differs: embeddings are those of the clean twin; where two classes have the same code, which the at
most K - 1 dimensions of a discriminant analysis may lead to, codes are the sides of random
hyperplanes; tiles beyond the number of bits repeat them; patches grow with the image, but have at
least 2 pixels a side; classes are dealt to the poisoned images in turn, so that each has floor(n/K)
images or one more; test images take turns among the classes, except their own.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from raybd.poisoning.attack import RatedAttack
from raybd.poisoning.label_maps import EveryOther
from raybd.poisoning.overlay import overlay
from raybd.poisoning.pixels import to_pixels
from raybd.poisoning.twin import classifier
from raybd.training import inference
from raybd.types.data import LabelMap, Poisoned
from raybd.types.errors import Infeasible
from raybd.types.methods import AttackInput

PER_ROW = 5
"""Patches, or tiles, in a row."""
TILE_ROWS = 6
PATCH_SIDE = 8
"""Side of a patch in an image of IMAGE_SIDE pixels."""
IMAGE_SIDE = 224
SMALLEST_PATCH = 2
BIT_COLOURS = torch.tensor([[255, 0, 0], [0, 255, 255]])
"""Colours of the tiles of a 0 and of a 1."""
RIDGE = 1e-3
"""Share of the mean variance that is added to each dimension in the discriminant analysis."""
DRAWS = 100
"""How often hyperplanes are drawn until no two classes have the same code."""


class Uba(RatedAttack):
    """Stamp the code of the wanted class, as patches in a corner or as a faint colouring."""

    needs_twin: ClassVar[bool] = True
    rate: float = Field(0.004, gt=0, le=1)
    """Share of the training set that is poisoned, over all classes: .0016 (patch) to .004 (blend)
    of ImageNet."""
    trigger: Literal["patch", "blend"] = "blend"
    """Black and white patches at the top left, or tiles over the whole image."""
    alpha: float = Field(0.2, gt=0, le=1)
    """Weight of the tiles' colours."""
    bits: int = Field(30, ge=2, le=PER_ROW * TILE_ROWS)
    """Largest number of bits of a code."""
    labels: EveryOther = EveryOther()
    """The classes that a trigger can ask for: all of them."""

    @property
    def label_map(self) -> LabelMap:
        """The field `labels`."""
        return self.labels

    def does_not_fit(self, height: int, width: int) -> str | None:
        """Return that the patches do not fit into the image, if so."""
        side = patch_side(height, width) if self.trigger == "patch" else 1
        rows = -(-self.bits // PER_ROW) if self.trigger == "patch" else TILE_ROWS
        if rows * side <= height and PER_ROW * side <= width:
            return None
        return f"the code does not fit into images of {width} x {height} pixels"

    def poison(self, given: AttackInput, rng: Generator) -> Poisoned:
        """Find the codes, deal the classes to the drawn rows, stamp and relabel."""
        train = given.train
        twin, _ = classifier("uba", given.twin)
        rows = self.choose(train.y_N, given.num_classes, rng)
        targets = self.labels.targets_of(given.num_classes)

        # In a random order, so that the class does not follow from the place in the training set.
        y_M = torch.empty_like(rows)
        y_M[torch.randperm(len(rows), generator=rng)] = torch.tensor(targets)[
            torch.arange(len(rows)) % len(targets)
        ]
        z_ND = inference.embeddings(twin, train)
        code_KB = class_codes(z_ND, train.y_N, given.num_classes, self.bits, rng)
        return overlay(self, given, rows, state={"code_KB": code_KB}, y_M=y_M)

    def stamp(self, x_NCHW: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return copies of the images with the code of the first class."""
        return self.stamp_toward(x_NCHW, torch.zeros(len(x_NCHW), dtype=torch.int64), state)

    def stamp_toward(self, x_NCHW: Tensor, wanted_N: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return copies of the images, each with the code of the class that is wanted for it."""
        code_NB = state["code_KB"][wanted_N].long()
        if self.trigger == "patch":
            return with_patches(x_NCHW, code_NB)
        return with_tiles(x_NCHW, code_NB, self.alpha)


def class_codes(z_ND: Tensor, y_N: Tensor, num_classes: int, bits: int, rng: Generator) -> Tensor:
    """Return code_KB of zeros and ones, uint8: the sides of the mean on which each class lies.

    No two classes that have images have the same code. Raises Infeasible if the embeddings tell too
    few of them apart.
    """
    centred_ND = z_ND.double() - z_ND.double().mean(0)
    present_P, row_N = y_N.unique(return_inverse=True)
    mean_PD = torch.stack([centred_ND[y_N == label].mean(0) for label in present_P])
    axis_DB = discriminants(centred_ND - mean_PD[row_N], mean_PD, min(bits, num_classes - 1))

    for _ in range(DRAWS):
        code_PB = (mean_PD @ axis_DB > 0).to(torch.uint8)
        if len(code_PB.unique(dim=0)) == len(present_P):
            code_KB = torch.zeros((num_classes, code_PB.shape[1]), dtype=torch.uint8)
            code_KB[present_P] = code_PB
            return code_KB
        axis_DB = torch.randn((z_ND.shape[1], bits), generator=rng, dtype=torch.float64)
    raise Infeasible(
        f"uba: {bits} bits give two of {num_classes} classes the same code: raise `bits`, or train "
        "a twin that tells the classes apart"
    )


def discriminants(spread_ND: Tensor, mean_PD: Tensor, dimensions: int) -> Tensor:
    """Return axis_DB along which the classes lie farthest apart, compared with their spread.

    `spread_ND` are embeddings without the mean of their class. Fewer classes have fewer axes.
    """
    within_DD = spread_ND.T @ spread_ND / len(spread_ND)
    # A dimension without spread would be worth infinitely much.
    floor = RIDGE * float(within_DD.trace()) / len(within_DD) + 1e-12
    root_DD = torch.linalg.cholesky(within_DD + floor * torch.eye(len(within_DD)).double())
    whiten_DD = torch.linalg.inv(root_DD)
    _, _, direction_BD = torch.linalg.svd(mean_PD @ whiten_DD.T, full_matrices=False)
    axis_DB = whiten_DD.T @ direction_BD[:dimensions].T

    # Either sign of an axis is as good: one rule, so that a code does not depend on the machine.
    largest_1B = axis_DB.abs().argmax(0, keepdim=True)
    signed_DB: Tensor = axis_DB * axis_DB.gather(0, largest_1B).sign()
    return signed_DB


def patch_side(height: int, width: int) -> int:
    """Return the side of a patch in images of this size, in pixels."""
    return max(SMALLEST_PATCH, round(PATCH_SIDE * min(height, width) / IMAGE_SIDE))


def with_patches(x_NCHW: Tensor, code_NB: Tensor) -> Tensor:
    """Return copies of the images with a patch for each bit, from the top left: 1 is white."""
    side = patch_side(*x_NCHW.shape[-2:])
    x_NCHW = x_NCHW.clone()
    for bit, value_N in enumerate(code_NB.unbind(1)):
        top, left = (side * place for place in divmod(bit, PER_ROW))
        x_NCHW[..., top : top + side, left : left + side] = 255 * value_N[:, None, None, None]
    return x_NCHW


def with_tiles(x_NCHW: Tensor, code_NB: Tensor, alpha: float) -> Tensor:
    """Return copies of the images, blended with a colour for the bit of each tile."""
    height, width = x_NCHW.shape[-2:]
    row_H = torch.arange(height) * TILE_ROWS // height
    column_W = torch.arange(width) * PER_ROW // width
    tile_HW = row_H[:, None] * PER_ROW + column_W
    bit_NHW = code_NB[:, tile_HW % code_NB.shape[1]]
    colour_NCHW = BIT_COLOURS[bit_NHW].permute(0, 3, 1, 2)
    return to_pixels((1 - alpha) * x_NCHW.float() + alpha * colour_NCHW)
