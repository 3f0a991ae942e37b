"""Ranks of classes at the layers of a network, and how unusual they are.

In shapes: L layers, S values of a layer, F values that are kept of all layers.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from raybd.distributed import group
from raybd.training import layers
from raybd.training.inference import infer
from raybd.types.models import Victim

ACTIVATIONS = (nn.ReLU, nn.GELU, nn.SiLU)
"""Modules that are layers, beside linear maps and convolutions larger than 1 x 1."""
SMALLEST_VARIANCE = 1e-6
"""Keeps ranks that never vary from dividing by zero."""


@dataclass(frozen=True)
class Sketch:
    """Sums of random groups of values with random signs: distances stay the same on average."""

    place_S: Tensor
    sign_S: Tensor
    width: int

    @classmethod
    def of(cls, size: int, width: int, rng: Generator) -> "Sketch":
        """Draw the groups; they differ in size by at most what rounding up leaves."""
        place_S = torch.randperm(size, generator=rng)
        sign_S = torch.randint(0, 2, (size,), generator=rng) * 2.0 - 1
        return cls(place_S.to(group.device()), sign_S.to(group.device()), width)

    def __call__(self, values_BS: Tensor) -> Tensor:
        """Return the sums, B x width."""
        signed_BS = values_BS[:, self.place_S] * self.sign_S
        filled_BS = F.pad(signed_BS, (0, -len(self.place_S) % self.width))
        return filled_BS.view(len(values_BS), self.width, -1).sum(2)


@dataclass(frozen=True)
class Reader:
    """Reads the layers of a victim, each in a few values, and its logits last."""

    victim: Victim
    sketches: dict[str, Sketch | None]
    """By the module's name; None: all values are kept."""
    widths: tuple[int, ...]

    @classmethod
    def of(cls, victim: Victim, x_BCHW: Tensor, width: int, rng: Generator) -> "Reader":
        """Find the layers in a pass over a few images, and draw what is kept of large ones."""
        sizes = {}
        for call in layers.trace(victim, x_BCHW):
            # An output whose first dimension is not the batch cannot be read image by image.
            if is_layer(call.module) and call.shape[0] == len(x_BCHW):
                sizes[call.name] = call.shape[1:].numel()
        sketches = {
            name: Sketch.of(size, width, rng) if size > width else None
            for name, size in sizes.items()
        }
        classes = infer(victim, x_BCHW).shape[1]
        return cls(victim, sketches, (*(min(size, width) for size in sizes.values()), classes))

    def __call__(self, x_BCHW: Tensor) -> Tensor:
        """Return the values of all layers side by side, B x F."""
        with layers.reading(self.victim, list(self.sketches)) as seen:
            logits_BK = self.victim(x_BCHW)
        kept = []
        for name, sketch in self.sketches.items():
            values_BS = seen[name].flatten(1).float()
            kept.append(values_BS if sketch is None else sketch(values_BS))
        return torch.cat([*kept, logits_BK.float()], 1)

    def classes(self, values_BF: Tensor) -> Tensor:
        """Return the predicted classes."""
        return values_BF[:, -self.widths[-1] :].argmax(1)


def is_layer(module: nn.Module) -> bool:
    """Return whether the outputs of a module are compared."""
    if isinstance(module, nn.Conv2d):
        return module.kernel_size != (1, 1)
    return isinstance(module, (nn.Linear, *ACTIVATIONS))


@dataclass(frozen=True)
class Known:
    """Trusted images that inputs are compared with."""

    values_MF: Tensor
    class_M: Tensor
    widths: tuple[int, ...]

    def ranks(self, values_BF: Tensor, class_B: Tensor, itself: bool = False) -> Tensor:
        """Return how many trusted images are nearer than the nearest of the same class, B x L.

        It is their number if none has the class. `itself`: the inputs are the trusted images, and
        none is compared with itself.
        """
        same_BM = class_B[:, None] == self.class_M
        ranks = []
        for mine, theirs in zip(
            values_BF.split(self.widths, 1), self.values_MF.split(self.widths, 1), strict=True
        ):
            # A matrix product rounds by the size of the batch, and ranks of near ties would swap.
            far_BM = torch.cdist(mine, theirs, compute_mode="donot_use_mm_for_euclid_dist")
            if itself:
                far_BM.fill_diagonal_(torch.inf)
            nearest_B1 = far_BM.masked_fill(~same_BM, torch.inf).amin(1, keepdim=True)
            ranks.append((far_BM < nearest_B1).sum(1))
        return torch.stack(ranks, 1).float()


@dataclass(frozen=True)
class Usual:
    """Mean and covariance of the ranks of trusted images, by directions of equal variance."""

    mean_L: Tensor
    direction_LP: Tensor
    variance_P: Tensor

    @classmethod
    def of(cls, rank_ML: Tensor, variance: float) -> "Usual":
        """Keep the fewest directions with this share of the variance of the ranks."""
        mean_L = rank_ML.mean(0)
        covariance_LL = (rank_ML - mean_L).T @ (rank_ML - mean_L) / len(rank_ML)
        variance_L, direction_LL = torch.linalg.eigh(covariance_LL.double())
        # From the largest on.
        variance_L, direction_LL = variance_L.flip(0), direction_LL.flip(1)
        share_L = variance_L.cumsum(0) / variance_L.sum().clamp_min(SMALLEST_VARIANCE)
        kept = min(int((share_L < variance).sum()) + 1, len(share_L))
        return cls(mean_L, direction_LL[:, :kept].float(), variance_L[:kept].float())

    def distance(self, rank_BL: Tensor) -> Tensor:
        """Return the Mahalanobis distance of ranks, B."""
        along_BP = (rank_BL - self.mean_L) @ self.direction_LP
        return (along_BP.square() / self.variance_P.clamp_min(SMALLEST_VARIANCE)).sum(1).sqrt()
