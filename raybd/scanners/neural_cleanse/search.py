"""The search for the smallest trigger of each class, of several classes at once."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from raybd.distributed import group
from raybd.types.models import Victim

if TYPE_CHECKING:
    from raybd.scanners.neural_cleanse import NeuralCleanse

EDGE = 1e-3
"""Least initial distance of masks and patterns from 0 and 1: tanh is flat there."""
AT_ONCE = 512
"""Images in one forward pass, at most: more of them take memory, and on a CPU also time."""


@dataclass(frozen=True)
class Triggers:
    """The triggers of some classes: masks and the patterns under them, all in 0..1."""

    mask_KHW: Tensor
    pattern_KCHW: Tensor
    norm_K: Tensor
    """L1 norms of the masks; that of a full mask where no trigger reaches the class."""

    def stamp(self, x_BCHW: Tensor) -> Tensor:
        """Return copies of the images with each trigger, K x B x C x H x W, float32 in 0..255."""
        return stamp(self.mask_KHW, self.pattern_KCHW, x_BCHW)


def stamp(mask_KHW: Tensor, pattern_KCHW: Tensor, x_BCHW: Tensor) -> Tensor:
    """Return copies of the images with each trigger, K x B x C x H x W, float32 in 0..255."""
    mask_K11HW = mask_KHW[:, None, None]
    painted_K1CHW = (mask_KHW[:, None] * 255 * pattern_KCHW)[:, None]
    return torch.addcmul(painted_K1CHW, 1 - mask_K11HW, x_BCHW.float()[None])


class Searched(Protocol):
    """A search that has come to its end."""

    @property
    def passes(self) -> int:
        """Images run forward and backward, over all workers."""

    @property
    def missed_K(self) -> Tensor:
        """The classes that no trigger has reached."""

    @property
    def ended_K(self) -> Tensor:
        """The classes of which no smaller mask was found for long."""

    def found(self) -> Triggers:
        """Return the smallest trigger of each class."""


class TriggerSearch:
    """The masks and patterns of some classes in progress, and the smallest that reach them."""

    def __init__(
        self, fields: "NeuralCleanse", class_K: Tensor, shape_CHW: torch.Size, rng: Generator
    ) -> None:
        """Begin with random triggers of the classes `class_K`: all of a victim, or a few."""
        device = group.device()
        num_classes = len(class_K)
        self._class_K = class_K.to(device)
        mask_KHW = torch.rand((num_classes, *shape_CHW[1:]), generator=rng)
        pattern_KCHW = torch.rand((num_classes, *shape_CHW), generator=rng)
        # `tanh` covers -1..1, and the range is 0..1.
        self.free = [
            torch.atanh(2 * part.clamp(EDGE, 1 - EDGE) - 1).to(device).requires_grad_()
            for part in (mask_KHW, pattern_KCHW)
        ]
        """Masks and patterns before tanh, so that they stay within 0..1."""
        # One optimizer for all: it treats each number by itself, as one for each class would.
        self._adam = torch.optim.Adam(self.free, fields.lr, betas=fields.betas)
        self._fields = fields
        self.weights = MaskWeights(fields, num_classes)

        self._best = [torch.zeros_like(part.detach()) for part in self.free]
        self._norm_K = torch.full((num_classes,), torch.inf)
        """The smallest norms so far; infinite where no trigger has reached the class."""
        self._shrunk_from_K = self._norm_K.clone()
        """The norms when a mask last counted as smaller."""
        self._idle_K = torch.zeros(num_classes, dtype=torch.int64)
        """Rounds since then."""
        self.ended_K = torch.zeros(num_classes, dtype=torch.bool)
        self.passes = 0
        """Images run forward and backward, over all workers."""
        self._begin_round()

    @property
    def norm_K(self) -> Tensor:
        """The smallest norms so far; infinite where no trigger has reached the class."""
        return self._norm_K

    @property
    def missed_K(self) -> Tensor:
        """The classes that no trigger has reached."""
        return self._norm_K.isinf()

    def step(self, victim: Victim, x_BCHW: Tensor, batch: int) -> None:
        """Go one step down the losses of all classes that have not ended.

        `x_BCHW` are this worker's images of the batch, which has `batch` images in all.
        """
        open_G = (~self.ended_K).nonzero().flatten()
        gradients = [torch.zeros_like(part) for part in self.free]
        hit_K = torch.zeros(len(self.ended_K), device=group.device())
        loss_K = torch.zeros_like(hit_K)
        for few_G in open_G.split(max(1, AT_ONCE // max(1, len(x_BCHW)))):
            class_G = group.to_device(few_G)
            found, hit_K[class_G], loss_K[class_G] = self._losses(victim, x_BCHW, batch, class_G)
            # The gradient of each class is zero in all other rows.
            torch._foreach_add_(gradients, found)

        for part, gradient in zip(self.free, gradients, strict=True):
            part.grad = group.sum_over(gradient)
        # What has ended moves on by its momentum; its best trigger is kept apart.
        self._adam.step()
        self._hits_K += group.sum_over(hit_K)
        self._loss_K += group.sum_over(loss_K)
        self._images += batch
        self._steps += 1
        self.passes += batch * len(open_G)

    def _losses(
        self, victim: Victim, x_BCHW: Tensor, batch: int, class_G: Tensor
    ) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
        """Return the gradients of some classes, their images that are reached, and their losses."""
        mask_GHW, pattern_GCHW = (torch.tanh(part[class_G]) / 2 + 0.5 for part in self.free)
        worn_NCHW = stamp(mask_GHW, pattern_GCHW, x_BCHW).flatten(0, 1)
        logits_NK = victim(worn_NCHW.contiguous(memory_format=torch.channels_last)).float()
        wanted_N = self._class_K[class_G].repeat_interleave(len(x_BCHW))
        entropy_GB = F.cross_entropy(logits_NK, wanted_N, reduction="none").view(len(class_G), -1)

        weight_G = self.weights.value_K.to(class_G.device)[class_G].float()
        # The masks have no images of their own: each worker adds its share of their norms.
        size_G = mask_GHW.sum((1, 2)) / group.world()
        loss_G = entropy_GB.sum(1) / batch + weight_G * size_G
        # The classes do not touch each other: the gradient of the sum has that of each. Only masks
        # and patterns get one: those of the victim's weights would cost time.
        gradients = torch.autograd.grad(loss_G.sum(), self.free, materialize_grads=True)
        hit_GB = (logits_NK.detach().argmax(1) == wanted_N).view(len(class_G), -1)
        return gradients, hit_GB.sum(1).float(), loss_G.detach()

    def end_round(self) -> float:
        """Keep the masks that are the smallest so far, change weights, and return the mean loss."""
        open_K = ~self.ended_K
        # In double precision, because a share of exactly `reached` is enough.
        reached_K = self._hits_K.cpu().double() / self._images >= self._fields.reached
        with torch.no_grad():
            now = [torch.tanh(part) / 2 + 0.5 for part in self.free]
        norm_K = now[0].sum((1, 2)).cpu()

        smaller_K = open_K & reached_K & (norm_K < self._norm_K)
        for best, part in zip(self._best, now, strict=True):
            best[smaller_K.to(best.device)] = part[smaller_K.to(part.device)]
        self._norm_K = torch.where(smaller_K, norm_K, self._norm_K)

        gained_K = self._norm_K <= (1 - self._fields.gain) * self._shrunk_from_K
        gained_K &= ~self.missed_K
        self._shrunk_from_K = torch.where(gained_K, self._norm_K, self._shrunk_from_K)
        # Before the first trigger there is nothing to return, so that the search must not end.
        self._idle_K = torch.where(gained_K | self.missed_K, 0, self._idle_K + 1)
        self.ended_K |= (self._idle_K >= self._fields.stop_after) & self.weights.settled_K
        self.weights.end_round(reached_K)

        loss = float(self._loss_K.cpu()[open_K].mean()) / self._steps
        self._begin_round()
        return loss

    def found(self) -> Triggers:
        """Return the smallest trigger of each class; the last one where none has reached it."""
        with torch.no_grad():
            last = [torch.tanh(part) / 2 + 0.5 for part in self.free]
        mask_KHW, pattern_KCHW = (
            torch.where(self.missed_K.view(-1, *[1] * (part.dim() - 1)).to(part.device), part, best)
            .detach()
            .cpu()
            for part, best in zip(last, self._best, strict=True)
        )
        full = float(mask_KHW[0].numel())
        return Triggers(mask_KHW, pattern_KCHW, torch.where(self.missed_K, full, self._norm_K))

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed search needs, at the end of a round."""
        return {
            "free": [part.detach() for part in self.free],
            "adam": self._adam.state_dict(),
            "weights": self.weights.state_dict(),
            "best": self._best,
            "norm": self._norm_K,
            "shrunk_from": self._shrunk_from_K,
            "idle": self._idle_K,
            "ended": self.ended_K,
            "passes": self.passes,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state that `state_dict` returned."""
        # In place, because the optimizer holds these tensors.
        with torch.no_grad():
            for part, saved in zip(self.free, state["free"], strict=True):
                part.copy_(saved)
        self._adam.load_state_dict(state["adam"])
        self.weights.load_state_dict(state["weights"])
        self._best = [part.to(group.device()) for part in state["best"]]
        self._norm_K = state["norm"]
        self._shrunk_from_K = state["shrunk_from"]
        self._idle_K = state["idle"]
        self.ended_K = state["ended"]
        self.passes = state["passes"]

    def _begin_round(self) -> None:
        # On the device: a float would make the CPU wait for the GPU at every step.
        self._hits_K = torch.zeros(len(self.ended_K), device=group.device())
        self._loss_K = torch.zeros_like(self._hits_K)
        self._images = 0
        self._steps = 0


class MaskWeights:
    """The weight of each mask's size in the loss.

    A weight rises while its class is reached, and falls while it is not.
    """

    def __init__(self, fields: "NeuralCleanse", num_classes: int) -> None:
        self._fields = fields
        start = 0.0 if fields.free_start else fields.weight
        self.value_K = torch.full((num_classes,), start, dtype=torch.float64)
        self._above_K = torch.zeros(num_classes, dtype=torch.int64)
        self._below_K = torch.zeros(num_classes, dtype=torch.int64)
        self._risen_K = torch.zeros(num_classes, dtype=torch.bool)
        self._fallen_K = torch.zeros(num_classes, dtype=torch.bool)

    @property
    def settled_K(self) -> Tensor:
        """The classes whose weight has risen and fallen: it is near its balance."""
        return self._risen_K & self._fallen_K

    def end_round(self, reached_K: Tensor) -> None:
        """Count a round in which the classes were reached, or not."""
        fields = self._fields
        self._above_K = torch.where(reached_K, self._above_K + 1, 0)
        self._below_K = torch.where(reached_K, 0, self._below_K + 1)

        free_K = self.value_K == 0
        up_K = self._above_K >= fields.patience
        down_K = (self._below_K >= fields.patience) & ~free_K
        risen_K = torch.where(free_K, fields.weight, self.value_K * fields.factor)
        self.value_K = torch.where(up_K, risen_K, self.value_K)
        self.value_K = torch.where(down_K, self.value_K / fields.factor**fields.fall, self.value_K)

        # The new weight gets as many rounds to show its effect before it changes again.
        self._above_K[up_K] = 0
        self._below_K[down_K] = 0
        # The first weight is none that has risen.
        self._risen_K |= up_K & ~free_K
        self._fallen_K |= down_K

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed search needs."""
        return {
            "value": self.value_K,
            "above": self._above_K,
            "below": self._below_K,
            "risen": self._risen_K,
            "fallen": self._fallen_K,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state that `state_dict` returned."""
        self.value_K = state["value"]
        self._above_K = state["above"]
        self._below_K = state["below"]
        self._risen_K = state["risen"]
        self._fallen_K = state["fallen"]
