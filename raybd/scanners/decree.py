"""DECREE: in an encoder with a backdoor, a few pixels collapse the embeddings of different images.

Feng, Tao, Cheng, Shen, Xu, Liu, Zhang, Ma and Zhang 2023, arXiv 2303.15180, sections on the
inversion of triggers for encoders and on the detection metric PL1; schedules, patience and batches
as in the authors' code. Published: CIFAR-10 encoders are flagged if PL1 is below 0.1.
Differs: any number of channels, with the L1 norm summed over all of them, as in the authors' code;
the last, smaller batch of an epoch is dropped; float32. The code returns to the first weight if the
weight is below `lowest`; this cannot happen and is left out. The published schedule is that of
CIFAR-10; for images of 224 pixels the code has `milestones` 200 and 500, `lowest` 1e-7,
`stop_after` 35 and batches of 32. DECREE misses triggers that cover the whole image or differ from
image to image. Small encoders, trained for minutes, collapse under a few scattered pixels without
any backdoor: compare PL1 with that of the clean twin, over several seeds, before trusting it.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor

from raybd.distributed import group
from raybd.training.epochs import Epochs, Stream
from raybd.training.inference import infer
from raybd.types.config import searched
from raybd.types.data import Split
from raybd.types.errors import UserError
from raybd.types.methods import Scanner
from raybd.types.models import Victim
from raybd.types.verdicts import Suspicion

EDGE = 1e-3
"""Least initial distance of mask and pattern from 0 and 1: tanh is flat there."""


class Decree(Scanner):
    """Score by how small a mask with a pattern can be that gives all images one embedding."""

    images: int = Field(1000, ge=2)
    """Clean images, drawn at random; all if there are fewer. Their labels are ignored."""
    batch_size: int = Field(128, ge=2)
    """Images per step over all workers."""
    epochs: int = Field(1000, ge=1, json_schema_extra=searched(low=100, high=1000, log=True))
    """Passes over the images, at most."""
    lr: tuple[float, float, float] = (0.5, 0.1, 0.05)
    """Learning rates of Adam: initially, and from each milestone on."""
    milestones: tuple[int, int] = (30, 50)
    """Epochs after which the learning rate falls."""
    reached: float = Field(0.99, gt=0, lt=1, json_schema_extra=searched(low=0.95, high=0.995))
    """Mean cosine between embeddings of different images above which they count as collapsed."""
    weight: float = Field(1e-3, gt=0)
    """Initial weight of the mask's L1 norm in the loss."""
    factor: float = Field(5.0, gt=1)
    """Factor by which the weight grows after collapsed steps in a row, and falls after others."""
    lowest: float = Field(1e-5, gt=0)
    """A weight below this is not divided further."""
    highest: float = Field(1e5, gt=0)
    """A weight of at least this is not multiplied further."""
    patience: int = Field(5, ge=0)
    """The weight changes after more than this many steps in a row."""
    stop_after: int = Field(10, ge=0)
    """The search ends with an epoch of collapsed embeddings, if more than this many steps have
    found no smaller mask."""
    threshold: float = Field(0.1, gt=0, lt=1)
    """PL1, the share of the image under the mask, below which the encoder is flagged."""

    def scan(self, victim: Victim, clean: Split, rng: Generator) -> Suspicion:
        """Score the encoder by 1 - PL1, or 0 if nothing collapsed.

        The tensors are the smallest trigger: `mask` (H x W) and `pattern` (C x H x W), in 0..1.
        Workers share the images of a step. Raises UserError for fewer than two clean images.
        """
        # The loss is a mean over pairs of images.
        if len(clean) < 2:
            raise UserError(
                f"decree: {len(clean)} clean images", "Give it at least two.", exit_code=1
            )
        images = clean.select(torch.randperm(len(clean), generator=rng)[: self.images])
        victim.to(group.device()).eval()
        search = TriggerSearch(self, images.x_NCHW.shape[1:], rng)
        self._search(search, victim, images, rng)

        collapsed = search.best is not None
        # Where nothing collapsed, the last trigger shows how far the search came.
        found = search.best or search.trigger()
        pl1 = found.share if collapsed else 1.0
        # Over all images: the search has seen the cosine of one batch at a time.
        z_ND = infer(victim, images.x_NCHW, lambda x_BCHW: victim.embed(found.stamp(x_BCHW)))
        missed = (
            f"no trigger brought the cosine to {self.reached:g}: raise epochs, or lower reached"
        )
        return Suspicion(
            torch.tensor([1 - pl1]),
            torch.tensor([1 - self.threshold]),
            warning=None if collapsed else missed,
            facts={"pl1": pl1, "cosine": self_cosine(z_ND).item(), "steps": float(search.steps)},
            pictures=found.pictures(images.x_NCHW[:1]),
            tensors={
                "mask": found.mask_HW.detach().cpu(),
                "pattern": found.pattern_CHW.detach().cpu(),
            },
        )

    def _search(
        self, search: "TriggerSearch", victim: Victim, images: Split, rng: Generator
    ) -> None:
        """Search until nothing smaller is found, or for all epochs."""
        stream = Stream(images.x_NCHW, images.y_N, self.batch_size)
        loop = Epochs("decree", self.epochs, stream, rng, {"search": search}, hint="Lower lr.")
        for epoch in loop.remaining():
            if search.ended:
                break
            lr = self.lr[sum(epoch >= milestone for milestone in self.milestones)]
            cosines = [search.step(victim, batch.x_B, batch.size, lr) for batch in loop.batches()]
            cosine = sum(cosines) / loop.steps

            # Before the epoch is reported, so that a checkpoint knows it.
            search.ended = cosine > self.reached and search.idle > self.stop_after
            pl1 = search.best.share if search.best is not None else 1.0
            loop.end_epoch(loss=-cosine, lr=lr, pl1=pl1)


def self_cosine(z_ND: Tensor) -> Tensor:
    """Return the mean cosine between different rows."""
    unit_ND = F.normalize(z_ND, dim=1)
    n = len(z_ND)
    # The squared length of the sum holds all pairs, and each row with itself, which is taken off.
    # That is not n: `normalize` leaves a row of zeros as it is.
    return (unit_ND.sum(0).square().sum() - unit_ND.square().sum()) / (n * (n - 1))


@dataclass(frozen=True)
class Trigger:
    """A mask and the pattern under it, both in 0..1, on the device of the search."""

    mask_HW: Tensor
    pattern_CHW: Tensor

    @property
    def share(self) -> float:
        """PL1: the mask's L1 norm over that of a mask which covers the image."""
        return self.mask_HW.mean().item()

    def stamp(self, x_BCHW: Tensor) -> Tensor:
        """Return copies of the images with the trigger, float32 in 0..255."""
        x_BCHW = (1 - self.mask_HW) * x_BCHW.float() + self.mask_HW * 255 * self.pattern_CHW
        return x_BCHW.contiguous(memory_format=torch.channels_last)

    def pictures(self, x_1CHW: Tensor) -> dict[str, Tensor]:
        """Return the mask in gray, the pattern, and an image with both; uint8."""
        stamped_1CHW = self.stamp(x_1CHW.to(self.mask_HW.device))
        parts = {
            "mask": 255 * self.mask_HW.expand_as(stamped_1CHW),
            "pattern": 255 * self.pattern_CHW[None],
            "example": stamped_1CHW,
        }
        return {name: part.round().to(torch.uint8).cpu() for name, part in parts.items()}


class TriggerSearch:
    """A mask and a pattern in progress, the weight of the mask's size, and the best trigger."""

    def __init__(self, decree: Decree, shape_CHW: torch.Size, rng: Generator) -> None:
        # Random, as in the authors' code: a mask that began as a square separated worse.
        mask_HW = torch.rand(shape_CHW[1:], generator=rng).clamp(EDGE, 1 - EDGE)
        pattern_CHW = torch.rand(shape_CHW, generator=rng).clamp(EDGE, 1 - EDGE)
        # `tanh` covers -1..1, and the range is 0..1.
        self.free = [
            torch.atanh(2 * part - 1).to(group.device()).requires_grad_()
            for part in (mask_HW, pattern_CHW)
        ]
        """Mask and pattern before tanh, so that they stay within 0..1."""
        self._adam = torch.optim.Adam(self.free, decree.lr[0], betas=(0.5, 0.9))
        self._reached = decree.reached
        self.weight = MaskWeight(decree)
        self.best: Trigger | None = None
        """The smallest mask under which the embeddings collapsed."""
        self.steps = 0
        self.idle = 0
        """Steps since the best trigger was found."""
        self.ended = False

    def trigger(self) -> Trigger:
        """Return the trigger as it is now."""
        return Trigger(*(torch.tanh(part) / 2 + 0.5 for part in self.free))

    def step(self, victim: Victim, x_BCHW: Tensor, batch: int, lr: float) -> float:
        """Go one step down the loss of a batch; return the mean cosine of the batch before it.

        `x_BCHW` are this worker's images of the batch, which has `batch` images in all.
        """
        trigger = self.trigger()
        z_BD = victim.embed(trigger.stamp(x_BCHW))
        cosine = self_cosine(group.gather_batch(z_BD.float(), batch))
        # One mask covers all channels, and the published weights are for the norm over all of them.
        size = trigger.mask_HW.sum() * len(trigger.pattern_CHW)
        loss = self.weight.value * size - cosine

        # Only mask and pattern get gradients: those of the victim's weights would cost time.
        gradients = torch.autograd.grad(loss, self.free, materialize_grads=True)
        for part, gradient in zip(self.free, gradients, strict=True):
            # `gather_batch` has multiplied each worker's part by their number, and the mask's size
            # counts on every worker: both need the mean.
            part.grad = group.sum_over(gradient) / group.world()
        for parameters in self._adam.param_groups:
            parameters["lr"] = lr
        self._adam.step()
        self.steps += 1

        # All workers decide by the number of the first one.
        reached: float = group.broadcast(cosine.item)
        self._note(trigger, reached > self._reached)
        return reached

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed search needs."""
        best = None if self.best is None else (self.best.mask_HW, self.best.pattern_CHW)
        return {
            "free": [part.detach() for part in self.free],
            "adam": self._adam.state_dict(),
            "weight": self.weight.state_dict(),
            "best": best,
            "idle": self.idle,
            "steps": self.steps,
            "ended": self.ended,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state that `state_dict` returned."""
        # In place, because the optimizer holds these tensors.
        with torch.no_grad():
            for part, saved in zip(self.free, state["free"], strict=True):
                part.copy_(saved)
        self._adam.load_state_dict(state["adam"])
        self.weight.load_state_dict(state["weight"])
        if state["best"] is not None:
            self.best = Trigger(*(part.to(group.device()) for part in state["best"]))
        self.idle = state["idle"]
        self.steps = state["steps"]
        self.ended = state["ended"]

    def _note(self, trigger: Trigger, collapsed: bool) -> None:
        self.weight.step(collapsed)
        # Before the first collapse there is nothing to return, so that the search must not end.
        self.idle += self.best is not None
        if collapsed and (self.best is None or trigger.share < self.best.share):
            # With its graph, it would keep the activations of a whole step in memory.
            self.best = Trigger(trigger.mask_HW.detach(), trigger.pattern_CHW.detach())
            self.idle = 0


class MaskWeight:
    """The weight of the mask's size in the loss.

    It rises while the embeddings collapse, and falls while they do not.
    """

    def __init__(self, decree: Decree) -> None:
        self.value = decree.weight
        self._decree = decree
        self._collapsed = 0
        self._apart = 0

    def step(self, collapsed: bool) -> None:
        """Count a step in which the embeddings collapsed, or did not."""
        self._collapsed = self._collapsed + 1 if collapsed else 0
        self._apart = 0 if collapsed else self._apart + 1
        if self._collapsed > self._decree.patience:
            # The new weight gets as many steps to show its effect before it changes again.
            self._collapsed = 0
            self.value *= self._decree.factor if self.value < self._decree.highest else 1
        elif self._apart > self._decree.patience:
            self._apart = 0
            self.value /= self._decree.factor if self.value >= self._decree.lowest else 1

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed search needs."""
        return {"value": self.value, "collapsed": self._collapsed, "apart": self._apart}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state that `state_dict` returned."""
        self.value = state["value"]
        self._collapsed = state["collapsed"]
        self._apart = state["apart"]
