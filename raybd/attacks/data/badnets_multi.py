"""BadNets with several targets: each target class has a patch of its own, and its own place.

Gu, Dolan-Gavitt and Garg 2017, arXiv 1708.06733, section 4, with a patch for each target class, as
in backdoors that send an image to any class that the attacker asks for.
Differs: patches of one colour, spread evenly along the border; test images take turns among the
targets, except their own class.
"""

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Generator, Tensor

from raybd.poisoning.attack import RatedAttack
from raybd.poisoning.label_maps import EveryOther
from raybd.poisoning.overlay import overlay
from raybd.types.data import LabelMap, Poisoned
from raybd.types.errors import Infeasible
from raybd.types.methods import AttackInput

COLOURS = torch.tensor(
    [[1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1]],
    dtype=torch.uint8,
)
"""The corners of the RGB cube without black."""


class BadNetsMulti(RatedAttack):
    """Stamp the patch of the wanted class, a coloured square at its place along the border."""

    size: int = Field(3, ge=1)
    """Side of each patch, in pixels."""
    labels: EveryOther = EveryOther(targets=(0, 1, 2))
    """The target classes; empty: all classes."""

    @property
    def label_map(self) -> LabelMap:
        """The field `labels`."""
        return self.labels

    def poison(self, given: AttackInput, rng: Generator) -> Poisoned:
        """Draw rows, deal the targets among them evenly, stamp and relabel."""
        rows = self.choose(given.train.y_N, given.num_classes, rng)
        targets = self.labels.targets_of(given.num_classes)
        y_M = deal_targets(given.train.y_N[rows], targets, rng)
        # An empty field means all classes, whose number a stamp does not know: the state holds it.
        state = {"target_M": torch.tensor(targets)}
        return overlay(self, given, rows, state=state, y_M=y_M)

    def stamp(self, x_NCHW: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return copies of the images with the patch of the first target."""
        first = state["target_M"][0]
        return self.stamp_toward(x_NCHW, first.expand(len(x_NCHW)), state)

    def stamp_toward(self, x_NCHW: Tensor, wanted_N: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return copies of the images, each with the patch of the class that is wanted for it."""
        height, width = x_NCHW.shape[-2:]
        places = border_places(len(state["target_M"]), height, width, self.size)
        x_NCHW = x_NCHW.clone()
        for number, (target, (top, left)) in enumerate(
            zip(state["target_M"].tolist(), places, strict=True)
        ):
            # From the eighth target on, colours repeat; the places still tell the patches apart.
            colour_C11 = 255 * COLOURS[number % len(COLOURS)].view(-1, 1, 1)
            asked = torch.nonzero(wanted_N == target).flatten()
            x_NCHW[asked, :, top : top + self.size, left : left + self.size] = colour_C11
        return x_NCHW


def border_places(count: int, height: int, width: int, size: int) -> list[tuple[int, int]]:
    """Return the upper left corners (row, column) of squares that are spread along the border.

    The first one lies in the lower right corner. Raises Infeasible if they would overlap.
    """
    bottom = height - size
    right = width - size
    around = 2 * (bottom + right)
    # Around a corner, squares are apart only if the way along the border is twice their side;
    # those of opposite edges, only if the image is twice as long as they are.
    if min(bottom, right) < size or around < 2 * size * count:
        raise Infeasible(
            f"{count} patches of {size} pixels do not fit along the border of "
            f"{width} x {height} pixels"
        )
    return [_on_border(around * number // count, bottom, right) for number in range(count)]


def _on_border(along: int, bottom: int, right: int) -> tuple[int, int]:
    """Return the place `along` pixels from the lower right corner: left, up, right, and down."""
    if along < right:
        return bottom, right - along
    along -= right
    if along < bottom:
        return bottom - along, 0
    along -= bottom
    if along < right:
        return 0, along
    return along - right, right


def deal_targets(y_M: Tensor, targets: tuple[int, ...], rng: Generator) -> Tensor:
    """Return a target for each label: none is the label itself, and all are used equally often.

    The counts differ by at most 1, unless too many labels are targets themselves.
    """
    # In a random order, so that the target does not follow from the place in the training set.
    order = torch.randperm(len(y_M), generator=rng).tolist()
    label = [int(y_M[at]) for at in order]
    dealt = [targets[turn % len(targets)] for turn in range(len(order))]

    for turn, own in enumerate(label):
        if dealt[turn] != own:
            continue
        # A swap keeps the counts of the targets even, where another target for this image would
        # not. Both images must end up with a target that is not their own class.
        after = ((turn + ahead) % len(order) for ahead in range(1, len(order)))
        other = next((at for at in after if dealt[at] != own and label[at] != own), None)
        # Nobody can swap where almost all images are of one target
        # class: counts give way to targets.
        if other is None:
            dealt[turn] = next(target for target in targets if target != own)
        else:
            dealt[turn], dealt[other] = dealt[other], dealt[turn]

    target_M = torch.empty_like(y_M)
    target_M[torch.tensor(order)] = torch.tensor(dealt)
    return target_M
