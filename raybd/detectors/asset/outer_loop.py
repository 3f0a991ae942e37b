"""ASSET's outer loop: two steps that pull against each other, and the losses that they may use.

Pan, Zeng, Lyu, Lin and Jia 2023, arXiv 2302.11408, section on the offset objective.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from raybd.distributed import ddp, group
from raybd.training.epochs import Epochs, Stream
from raybd.training.precision import bf16
from raybd.types.data import Split

Loss = Literal["variance", "cross_entropy"]
Network = TypeVar("Network", bound=nn.Module)
Select = Callable[[Tensor], Tensor]
"""Rows of a batch -> a mask over the batch: the rows on which the loss is raised."""


def losses(kind: Loss, out_BK: Tensor, y_B: Tensor) -> Tensor:
    """Return one loss per image: the unbiased variance of its outputs, or its cross-entropy.

    The variance needs no labels.
    """
    if kind == "variance":
        return out_BK.var(dim=1)
    return F.cross_entropy(out_BK, y_B, reduction="none")


def of_part(select: Select, rows_S: Tensor) -> Select:
    """Return `select` for a part of the pool: it is asked for rows of the part.

    `rows_S` are the rows of the whole pool that the part has.
    """
    return lambda rows_B: select(rows_S[rows_B])


@dataclass(frozen=True)
class Offset:
    """How the two steps are taken; the fields are those of the detector."""

    minimise: Loss
    maximise: Loss
    lr_min: float
    lr_max: float
    epochs: int
    batch_size: int
    cap: float | None
    clip: float | None

    def lowered(self, out_BK: Tensor, y_B: Tensor) -> Tensor:
        """Return the losses that are lowered on trusted images."""
        return losses(self.minimise, out_BK, y_B)

    def raised(self, out_BK: Tensor, y_B: Tensor) -> Tensor:
        """Return the losses that are raised on suspects, with the sign for going down."""
        loss_B = losses(self.maximise, out_BK, y_B)
        # Above the cap there is no gradient, so that one image cannot rise for ever.
        return -(loss_B if self.cap is None else loss_B.clamp(max=self.cap))


def offset(
    name: str,
    how: Offset,
    net: Network,
    suspects: Split,
    trusted: Split,
    select: Select,
    intermediate_scores: Callable[[Network], Tensor] | None,
    rng: Generator,
) -> tuple[Network, float]:
    """Lower one loss on trusted images and raise another on selected suspects, in turn.

    Each of the two steps has an Adam of its own. The second one is left out where fewer than two
    suspects are selected. `name` is that of the training in reports and checkpoints.
    `intermediate_scores` computes the scores of a network that is not finished. Returns the
    network, in eval mode, and the share of steps that had a second one.
    """
    net.to(group.device()).to(memory_format=torch.channels_last)
    model = ddp.wrap(net).train()
    # Two, as in the authors' code: the moments of opposite gradients would cancel in one.
    down = torch.optim.Adam(net.parameters(), how.lr_min, fused=True)
    up = torch.optim.Adam(net.parameters(), how.lr_max, fused=True)
    second_steps = _Count()
    batch_size = min(how.batch_size, len(suspects))
    loop = Epochs(
        name,
        how.epochs,
        # Not sharded: how many suspects are selected varies, so that `_loss` divides them anew.
        Stream(suspects.x_NCHW, suspects.y_N, batch_size, sharded=False),
        rng,
        {"net": net, "second_steps": second_steps},
        further=[Stream(trusted.x_NCHW, trusted.y_N, batch_size, sharded=False)],
        optimizers=[down, up],
        clip=how.clip,
        hint="Lower lr_min or lr_max, or set clip.",
    )
    for _ in loop.remaining():
        for batch in loop.batches():
            (base,) = batch.further
            loss = _loss(model, base.x_B, base.y_B, how.lowered)
            loop.step(loss, down)
            # The mean over the workers is that of the batch, so each worker's loss is one of them.
            loop.add_loss(loss, group.world())

            chosen = select(batch.all_rows_B).nonzero().flatten()
            if len(chosen) >= 2:  # batch statistics and the variance need two
                chosen = chosen.to(batch.x_B.device)
                loop.step(_loss(model, batch.x_B[chosen], batch.y_B[chosen], how.raised), up)
                second_steps.value += 1
        loop.end_epoch(
            intermediate_scores=None
            if intermediate_scores is None
            else partial(intermediate_scores, net)
        )
        model.train()  # computing scores leaves the network in eval mode

    ddp.unwrap(model)
    net.to("cpu").to(memory_format=torch.contiguous_format)
    return net.eval(), second_steps.value / max(loop.steps * how.epochs, 1)


def _loss(
    model: nn.Module, x_BCHW: Tensor, y_B: Tensor, objective: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Return this worker's loss of a batch that every worker has.

    The mean over the workers is the mean over the batch.
    """
    n = len(x_BCHW)
    # Too few rows to share: every worker takes them all, and the gradients are the same.
    shared = n >= 2 * group.world()
    mine = (group.shard(torch.arange(n)) if shared else torch.arange(n)).to(x_BCHW.device)
    with bf16(x_BCHW.device):
        out_BK = model(x_BCHW[mine].contiguous(memory_format=torch.channels_last))
    # This worker's part of the mean over the batch. Data parallelism averages over the workers,
    # which the first factor undoes.
    factor = (group.world() if shared else 1) / n
    return objective(out_BK.float(), y_B[mine]).sum() * factor


class _Count:
    """A number that a checkpoint holds."""

    value = 0

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.value = state["value"]
