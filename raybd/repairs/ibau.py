"""I-BAU: unlearn a universal perturbation, with the gradient through how it would be found.

Zeng, Chen, Park, Mao, Jin and Jia 2022, arXiv 2110.03735, algorithm 1. Each round finds one image
d that, added to trusted images, makes the network wrong; then each batch descends the loss of the
batch, where some images carry d, by the hypergradient: the gradient that also knows how d follows
from the weights, by a fixed-point iteration on one step of the search.
Differs: trusted images come from the training set, and a part of them is held out; the result is
the network after the last round that costs little on that part (the authors' code takes the last
round). d is in pixels of 0..1, also for networks that normalise. At least one image of a
batch carries it. No image is augmented, and the network is in eval mode throughout.
"""

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from raybd.distributed import group
from raybd.repairs._clean_accuracy import accuracy_facts, lost
from raybd.repairs._tuning import Targets
from raybd.training.epochs import Batch, Epochs, Stream
from raybd.training.held_out import fit_and_held, too_costly
from raybd.training.inference import infer
from raybd.training.trusted import FEWEST, trusted_accuracy
from raybd.types.config import searched
from raybd.types.data import Split
from raybd.types.methods import Repair
from raybd.types.models import Victim
from raybd.types.verdicts import Defended


class Ibau(Targets, Repair):
    """Learn by hypergradients to resist one perturbation of all images."""

    rounds: int = Field(5, ge=1, json_schema_extra=searched(low=1, high=20))
    """Times that the perturbation is found anew and unlearned."""
    batch_size: int = Field(100, ge=1)
    """Images per step over all workers. BackdoorBench: 256."""
    lr: float = Field(1e-3, gt=0, json_schema_extra=searched(low=1e-5, high=1e-2, log=True))
    """Learning rate of Adam. BackdoorBench: 0.0001, with AMSGrad."""
    search_lr: float = Field(10.0, gt=0, json_schema_extra=searched(low=1.0, high=100.0, log=True))
    """Learning rate of the perturbation, which starts at zero and sees each image once."""
    penalty: float = Field(1e-3, ge=0)
    """Weight of the perturbation's squared norm in its loss."""
    carrying: float = Field(0.01, gt=0, le=1, json_schema_extra=searched(low=0.01, high=1.0))
    """Share of a batch, one image at least, that carries the perturbation when the network
    learns."""
    iterations: int = Field(5, ge=1)
    """Steps of the fixed-point iteration, at most."""
    inner_step: float = Field(0.1, gt=0)
    """Rate of the step of the search that the hypergradient differentiates."""
    tolerance: float = Field(1e-10, ge=0)
    """Change of the fixed-point iteration at which it stops."""

    def repair(self, victim: Victim, suspects: Split, clean: Split, rng: Generator) -> Defended:
        """Return a copy that has unlearned the perturbations; the suspects are not used.

        The facts are the number of rounds behind the result, of all steps, the share of trusted
        images that the perturbation of its last round fooled before and after it was unlearned, and
        the accuracy before and after on held images. Where every round cost too much, the victim is
        returned as it was.
        """
        learned, held = fit_and_held(clean, rng)
        # A copy, because the facts compare it with the victim as it was.
        repaired = copy.deepcopy(victim).to(group.device()).eval()
        kept = _Kept(repaired)
        loop = Epochs(
            "ibau",
            self.rounds,
            Stream(learned.x_NCHW, learned.y_N, self.batch_size),
            rng,
            {"victim": repaired, "kept": kept},
            optimizers=[torch.optim.Adam(_trained(repaired), self.lr)],
            hint=f"Lower lr (now {self.lr:g}).",
        )
        loss = partial(_loss, self, said_NK=self.said(victim, learned.x_NCHW))
        self._rounds(repaired, loop, kept, held, trusted_accuracy(victim, held), loss)

        repaired.load_state_dict(kept.weights)
        repaired = repaired.cpu().eval()
        facts = kept.facts | {
            "rounds": float(kept.rounds),
            "steps": float(self.rounds * loop.steps),
        }
        facts |= accuracy_facts(victim, repaired, held)
        undone = "ibau: the victim is unchanged: every round cost too much accuracy; lower lr"
        warning = lost("ibau", facts, held) if kept.rounds else undone
        return Defended(repaired, warning=warning, facts=facts)

    def _rounds(
        self,
        victim: Victim,
        loop: Epochs,
        kept: "_Kept",
        held: Split,
        before: float | None,
        loss: "_Outer",
    ) -> None:
        """Go through the rounds, and keep the network after each that does not cost too much."""
        # The faster kernels of attention have no second derivative.
        with sdpa_kernel(SDPBackend.MATH):
            for _ in loop.remaining():
                d_1CHW = self._search(victim, loop)
                fooled_before = _fooled(victim, loop.stream.x_N, d_1CHW)
                self._unlearn(victim, loop, d_1CHW, loss)
                fooled_after = _fooled(victim, loop.stream.x_N, d_1CHW)

                kept.done += 1
                # A later round may win back what an earlier one cost.
                if not _too_costly(before, trusted_accuracy(victim, held), held):
                    kept.keep(victim, fooled_before=fooled_before, fooled_after=fooled_after)
                loop.end_epoch(fooled_before=fooled_before, fooled_after=fooled_after)

    def _search(self, victim: Victim, loop: Epochs) -> Tensor:
        """Return the image that makes the network contradict itself, after one pass."""
        d_1CHW = torch.zeros(1, *loop.stream.x_N.shape[1:], device=group.device())
        order_N = torch.randperm(len(loop.stream), generator=loop.rng)
        for rows_B in order_N[: loop.steps * loop.batch_size].split(loop.batch_size):
            x_BCHW = loop.stream.x_N[group.shard(rows_B).to(group.device())]
            with torch.no_grad():
                said_B = victim(x_BCHW).argmax(1)
            d_1CHW.requires_grad_()
            loss = self._agreement(victim, x_BCHW, said_B, d_1CHW, len(rows_B))
            (slope_1CHW,) = torch.autograd.grad(loss, d_1CHW)
            d_1CHW = d_1CHW.detach() - self.search_lr * group.sum_over(slope_1CHW)
        return d_1CHW

    def _agreement(
        self, victim: Victim, x_BCHW: Tensor, y_B: Tensor, d_1CHW: Tensor, batch: int
    ) -> Tensor:
        """Return this worker's part of what a perturbation lowers: -CE, and its squared norm."""
        loss = F.cross_entropy(victim(worn(x_BCHW, d_1CHW)), y_B, reduction="sum")
        return -loss / batch + self.penalty * d_1CHW.square().sum() / group.world()

    def _unlearn(self, victim: Victim, loop: Epochs, d_1CHW: Tensor, outer: "_Outer") -> None:
        """Descend the loss of all batches, where some images carry the perturbation."""
        parameters = _trained(victim)
        first: Batch | None = None
        for batch in loop.batches():
            first = batch if first is None else first
            # Rows of a batch are in random order, so that the first ones are a random choice.
            count = max(1, int(self.carrying * batch.size))
            carries_B = (group.shard(torch.arange(batch.size)) < count).to(group.device())
            loss, gradients = hypergradient(
                partial(self._agreement, victim, first.x_B, first.y_B, batch=first.size),
                partial(outer, victim, batch, carries_B),
                d_1CHW,
                parameters,
                self.inner_step,
                self.iterations,
                self.tolerance,
            )
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            loop.descend()
            loop.add_loss(loss * batch.size, batch.size)


def worn(x_BCHW: Tensor, d_BCHW: Tensor) -> Tensor:
    """Return images, 0..255 in float, with a perturbation in pixels of 0..1; nothing is clipped."""
    return x_BCHW.float() + 255 * d_BCHW


def hypergradient(
    inner: Callable[[Tensor], Tensor],
    outer: Callable[[Tensor], Tensor],
    d: Tensor,
    parameters: Sequence[Tensor],
    step: float,
    iterations: int,
    tolerance: float = 0.0,
) -> tuple[Tensor, list[Tensor]]:
    """Return the outer loss at d, and its gradients in the parameters that d depends on as well.

    d is where one step of the search, Phi(d) = d - `step` d inner / d d, should stay. The inverse
    that the chain rule needs comes from v <- (d Phi / d d)^T v + d outer / d d, from zero. Losses
    are this worker's parts of their sums; the gradients are those of the sums, the loss is a part.
    """
    d = d.detach().requires_grad_()
    loss = outer(d)
    slopes = torch.autograd.grad(loss, [d, *parameters], materialize_grads=True)
    pull, *direct = _summed(slopes)

    (slope,) = torch.autograd.grad(inner(d), d, create_graph=True)
    v = torch.zeros_like(d)
    for _ in range(iterations):
        (bent,) = torch.autograd.grad(slope, d, v, retain_graph=True, materialize_grads=True)
        further = v - step * group.sum_over(bent) + pull
        change = float((further - v).norm())
        v = further
        if change < tolerance:
            break
    mixed = torch.autograd.grad(slope, parameters, v, materialize_grads=True)
    both = zip(direct, _summed(mixed), strict=True)
    return loss.detach(), [straight - step * through for straight, through in both]


class _Kept:
    """The network after the last round that did not cost too much, and what it had unlearned."""

    def __init__(self, victim: Victim) -> None:
        self.done = 0
        """Rounds so far."""
        self.rounds = 0
        """Rounds behind the kept network."""
        self.facts: dict[str, float] = {}
        self.weights = copy.deepcopy(victim.state_dict())

    def keep(self, victim: Victim, **facts: float) -> None:
        """Keep the network as it is now."""
        self.rounds = self.done
        self.facts = facts
        self.weights = copy.deepcopy(victim.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed training needs."""
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state that `state_dict` returned."""
        vars(self).update(state)


_Outer = Callable[[Victim, Batch, Tensor, Tensor], Tensor]
"""(victim, batch, carries_B, d_1CHW) -> the loss that is lowered where some images carry d."""


def _loss(
    targets: Targets,
    victim: Victim,
    batch: Batch,
    carries_B: Tensor,
    d_1CHW: Tensor,
    said_NK: Tensor | None,
) -> Tensor:
    """Return this worker's part of the mean loss of a batch in which some images carry d."""
    x_BCHW = worn(batch.x_B, d_1CHW * carries_B.view(-1, 1, 1, 1))
    # Of the images without d: what the victim says of those with it is to be unlearned.
    said_BK = None if said_NK is None else said_NK[batch.rows_B.cpu()].to(x_BCHW.device)
    return targets.losses(victim(x_BCHW), batch.y_B, said_BK).sum() / batch.size


def _fooled(victim: Victim, x_NCHW: Tensor, d_1CHW: Tensor) -> float:
    """Return the share of images whose prediction a perturbation changes."""
    plain_N = infer(victim, x_NCHW).argmax(1)
    worn_N = infer(victim, x_NCHW, lambda x_BCHW: victim(worn(x_BCHW, d_1CHW))).argmax(1)
    return float((plain_N != worn_N).float().mean())


def _too_costly(before: float | None, after: float | None, held: Split) -> bool:
    """Whether a round lost more accuracy than a choice may cost; few images cannot tell."""
    if before is None or after is None or len(held) < FEWEST:
        return False
    return too_costly(before, after)


def _trained(victim: Victim) -> list[nn.Parameter]:
    return [parameter for parameter in victim.parameters() if parameter.requires_grad]


def _summed(parts: Sequence[Tensor]) -> list[Tensor]:
    """Return the sums over the workers, in one message."""
    flat = group.sum_over(torch.cat([part.flatten() for part in parts]))
    sums = flat.split([part.numel() for part in parts])
    return [total.view_as(part) for total, part in zip(sums, parts, strict=True)]
