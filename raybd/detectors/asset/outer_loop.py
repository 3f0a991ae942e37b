"""ASSET's outer loop: the losses that can stand in its slots, and the two steps that pull against each other.

Pan, Zeng, Lyu, Lin and Jia 2023, arXiv 2302.11408, section on the offset objective.
"""

import time
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from raybd.distributed import ddp, group
from raybd.training.precision import bf16
from raybd.training.runtime import halfway, report
from raybd.types.data import Split
from raybd.types.models import Victim

Loss = Literal["variance", "cross_entropy"]
_Objective = Callable[[Tensor, Tensor], Tensor]
Select = Callable[[Tensor], Tensor]
"""Rows of a batch -> which of them the loss is raised on, as a mask over the batch."""


def losses(kind: Loss, out_BK: Tensor, y_B: Tensor) -> Tensor:
    """One loss per image: the unbiased variance over the outputs, which needs no labels, or cross-entropy with its label."""
    return (
        out_BK.var(dim=1) if kind == "variance" else F.cross_entropy(out_BK, y_B, reduction="none")
    )


def offset(
    net: Victim,
    suspects: Split,
    trusted: Split,
    select: Select,
    *,
    minimise: Loss,
    maximise: Loss,
    lr_min: float,
    lr_max: float,
    epochs: int,
    batch_size: int,
    cap: float | None,
    clip: float | None,
    watch: Callable[[Victim], Tensor],
    rng: Generator,
) -> tuple[Victim, float]:
    """Lower one loss on trusted images, raise another on the selected suspects, in turn, each with an Adam of its own.

    Where fewer than two suspects are selected the second step is left out. `watch` gives the scores of a network that is not yet
    finished. Returns the network, in eval mode, and the share of
    steps that had a second one.
    """
    device = group.device()
    net.to(device).to(memory_format=torch.channels_last)
    model = ddp.wrap(net).train()
    optimizers = [torch.optim.Adam(net.parameters(), lr, fused=True) for lr in (lr_min, lr_max)]
    x_NCHW, y_N = suspects.x_NCHW.to(device), suspects.y_N.to(device)
    trusted_x, trusted_y = trusted.x_NCHW.to(device), trusted.y_N.to(device)
    batch = min(batch_size, len(suspects))

    def step(
        optimizer: torch.optim.Optimizer,
        x_BCHW: Tensor,
        y_B: Tensor,
        objective: Callable[[Tensor, Tensor], Tensor],
    ) -> Tensor:
        # Too few rows to share: every process takes them all, and the gradients are the same.
        n, shared = len(x_BCHW), len(x_BCHW) >= 2 * group.world()
        mine = group.shard(torch.arange(n)) if shared else torch.arange(n)
        mine = mine.to(device)
        with bf16(device):
            out_BK = model(x_BCHW[mine].contiguous(memory_format=torch.channels_last))
        loss = objective(out_BK.float(), y_B[mine]).sum() * ((group.world() if shared else 1) / n)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        return loss.detach()

    def raised(out_BK: Tensor, y_B: Tensor) -> Tensor:
        loss_B = losses(maximise, out_BK, y_B)
        return -(loss_B if cap is None else loss_B.clamp(max=cap))

    steps, started = len(suspects) // batch, 0
    for epoch in range(epochs):
        began, total = time.monotonic(), torch.zeros((), device=device)
        for rows_B in torch.randperm(len(suspects), generator=rng)[: steps * batch].view(
            steps, batch
        ):
            base = torch.randperm(len(trusted), generator=rng)[:batch].to(device)
            total += step(
                optimizers[0],
                trusted_x[base],
                trusted_y[base],
                lambda out, y: losses(minimise, out, y),
            )
            chosen = rows_B[select(rows_B)].to(device)
            if len(chosen) >= 2:
                step(optimizers[1], x_NCHW[chosen], y_N[chosen], raised)
                started += 1
        loss, speed = (
            float(group.sum_over(total)) / steps,
            steps * batch / (time.monotonic() - began),
        )
        told = {
            "name": "asset",
            "epoch": epoch + 1,
            "epochs": epochs,
            "loss": loss,
            "images_per_second": speed,
        }
        report(told | halfway(lambda: watch(net)))
        model.train()
    ddp.unwrap(model)
    return net.to("cpu").to(memory_format=torch.contiguous_format).eval(), started / max(
        steps * epochs, 1
    )
