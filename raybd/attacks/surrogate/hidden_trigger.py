"""Hidden trigger: target-class images that a clean model takes for source images with a patch.

Saha, Subramanya and Pirsiavash 2020, arXiv 1910.00033, section on the hidden trigger backdoor
attack and algorithm 1. The patch itself is in no training image. Published for victims of which
only the last layer is trained; under other trainers the embeddings move, and success is expected to
be low. Take the trainer `transfer` with `layers: head`.
Differs: the clean model is the victim's clean twin; the search stops at a share of the first loss
(the authors': at a distance of 10, which fits one network); at test time the pixels of an image
choose one of 256 drawn places.

With few steps it fails: after 100 of them the poison was farther from patched sources (squared
distance 2.9) than these from their images without the patch (0.9), and success was .21 where the
clean model's was .05 (5,000 CIFAR-10 images, half of the target class poisoned, small_cnn, size 8,
head trained for 5 epochs, seed 0, 2 CPU cores).
"""

from collections.abc import Iterable, Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Generator, Tensor

from raybd.distributed import group
from raybd.poisoning.attack import RatedAttack
from raybd.poisoning.drawing import draw
from raybd.poisoning.label_maps import CleanSourceToTarget
from raybd.poisoning.overlay import overlay
from raybd.poisoning.patches import larger_than_image
from raybd.poisoning.pixels import to_pixels
from raybd.poisoning.placed_patch import chosen_place, draw_patch, draw_places, paste
from raybd.poisoning.twin import classifier
from raybd.types.data import LabelMap, Poisoned
from raybd.types.methods import AttackInput
from raybd.types.models import Victim


class HiddenTrigger(RatedAttack):
    """Move target-class images, within a bound, to patched source images in embedding space."""

    needs_twin: ClassVar[bool] = True
    selects: ClassVar[bool] = True
    rate: float = Field(0.01, gt=0, le=1)
    """Share of the training set (not of the class) that is poisoned; at most that of the target
    class."""
    candidates: float = Field(2.0, ge=1)
    """Images that are optimised for each one that is kept, if the target class has as many: those
    with the lowest loss are the poison."""
    size: int = Field(5, ge=1)
    """Side of the patch, in pixels; 4 or 5 of 32, 30 of 224."""
    inset: float = Field(0.0, ge=0, lt=0.5)
    """Share of the image along each border that stays free of the patch."""
    eps: int = Field(16, ge=1, le=255)
    """Largest change of a pixel, on the 0..255 scale."""
    step: float = Field(0.01, gt=0)
    """Size of the first steps along the gradient of the squared distances, for pixels in 0..1."""
    steps: int = Field(500, ge=1)
    """Most steps of the projected gradient descent; the paper has 5,000."""
    halve_every: float = Field(0.2, gt=0, le=1)
    """Share of the steps after which their size is halved, again and again; the paper: each 1,000
    of 5,000."""
    enough: float = Field(0.01, ge=0, lt=1)
    """The search of a batch stops when its largest loss is below this share of its first one."""
    batch_size: int = Field(100, ge=1)
    """Images that are matched with as many patched source images at a time."""
    labels: CleanSourceToTarget = CleanSourceToTarget()
    """Source and target class; labels never change."""

    @property
    def label_map(self) -> LabelMap:
        """The field `labels`."""
        return self.labels

    def does_not_fit(self, height: int, width: int) -> str | None:
        """Return that the patch is larger than the image, if so."""
        return larger_than_image(self.size, height, width)

    def choose(self, y_N: Tensor, num_classes: int, rng: Generator) -> Tensor:
        """Return the rows that are optimised. Raises Infeasible if they, or sources, are few."""
        self.labels.check_source(y_N)
        rows = draw(y_N, num_classes, self.rate, self.labels, rng)
        others = self.labels.eligible(y_N)
        others[rows] = False
        spare = torch.nonzero(others).flatten()
        wanted = round(self.candidates * len(rows)) - len(rows)
        spare = spare[torch.randperm(len(spare), generator=rng)[:wanted]]
        return torch.cat([rows, spare]).sort().values

    def poison(self, given: AttackInput, rng: Generator) -> Poisoned:
        """Optimise the candidates in batches; keep those that end nearest to a patched source."""
        twin, _ = classifier("hidden_trigger", given.twin)
        train = given.train
        candidates = self.choose(train.y_N, given.num_classes, rng)
        patch_CSS = draw_patch(train.x_NCHW.shape[1], self.size, rng)
        state = {"patch_CSS": patch_CSS, "place_P2": draw_places(rng)}

        of_source = torch.nonzero(self.labels.counted(train.y_N)).flatten()
        # As many sources as candidates: where the class has fewer, they take turns.
        order = torch.randperm(len(of_source), generator=rng)
        sources = of_source[order.repeat(-(-len(candidates) // len(order)))[: len(candidates)]]
        patched_LCHW = self.stamp(train.x_NCHW[sources], state)

        batches = zip(
            train.x_NCHW[candidates].split(self.batch_size),
            patched_LCHW.split(self.batch_size),
            strict=True,
        )
        # On the first worker alone: the matching is one of the whole batch.
        moved, distance = zip(*group.broadcast(lambda: self._all_moved(twin, batches)), strict=True)
        count = round(self.rate * len(train))
        best = torch.cat(distance).argsort(stable=True)[:count].sort().values
        return overlay(self, given, candidates[best], state=state, x_MCHW=torch.cat(moved)[best])

    def stamp(self, x_NCHW: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return copies of the images with the patch where the sum of their pixels selects it."""
        place_N2 = chosen_place(x_NCHW, state["place_P2"])
        return paste(x_NCHW, state["patch_CSS"], place_N2, self.inset)

    def _all_moved(
        self, twin: Victim, batches: Iterable[tuple[Tensor, Tensor]]
    ) -> list[tuple[Tensor, Tensor]]:
        twin = twin.to(group.device()).eval()
        return [self._moved(twin, *map(group.to_device, batch)) for batch in batches]

    def _moved(self, twin: Victim, x_BCHW: Tensor, patched_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return the images near patched ones in embedding space, and their squared distances."""
        with torch.no_grad():
            aim_BD = twin.embed(patched_BCHW)
        moved_BCHW = x_BCHW.float()
        distance_B = torch.full((len(x_BCHW),), torch.inf)
        first = None
        for step in range(self.steps):
            moved_BCHW = moved_BCHW.detach().requires_grad_()
            distance_BB = (twin.embed(moved_BCHW)[:, None] - aim_BD).square().sum(2)
            matched_B = closest_first(distance_BB.detach().cpu()).to(distance_BB.device)
            distance_B = distance_BB.gather(1, matched_B[:, None])[:, 0]
            # Of one image the first loss may be zero already.
            largest = float(distance_B.detach().max())
            first = largest if first is None else first
            if largest <= self.enough * first:
                break
            (gradient_BCHW,) = torch.autograd.grad(distance_B.sum(), moved_BCHW)

            # The step is one for pixels in 0..1, of which both pixels and gradient are multiples.
            halvings = int(step / (self.halve_every * self.steps))
            change_BCHW = self.step * 0.5**halvings * 255**2 * gradient_BCHW
            change_BCHW = moved_BCHW.detach() - change_BCHW - x_BCHW
            moved_BCHW = (x_BCHW + change_BCHW.clamp(-self.eps, self.eps)).clamp(0, 255)
        return to_pixels(moved_BCHW.detach()).cpu(), distance_B.detach().cpu()


def closest_first(distance_BB: Tensor) -> Tensor:
    """Return a column for each row, each column once: the closest pair is matched first."""
    free_BB = distance_BB.clone()
    matched_B = torch.empty(len(free_BB), dtype=torch.int64)
    for _ in range(len(free_BB)):
        row, column = divmod(int(free_BB.argmin()), len(free_BB))
        matched_B[row] = column
        free_BB[row] = torch.inf
        free_BB[:, column] = torch.inf
    return matched_B
