"""THE training loop, and batched inference: device, bf16, channels_last, DDP, augmentation, schedule, checkpoint, resume.

Everything random is drawn for the global batch and then sharded, and the loss is the mean over the global batch, so that the
number of workers does not change the experiment.
"""

import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from raybd.distributed import ddp, group
from raybd.training import augmentation
from raybd.training.checkpoints import Stateful, TrainingRun
from raybd.training.precision import bf16
from raybd.training.recipe import Recipe, lr_factor, new_optimizer
from raybd.training.runtime import Facts, current
from raybd.types.data import Split
from raybd.types.errors import UserError

Trained = TypeVar("Trained", bound=nn.Module)


Objective = Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]
"""(model, x_BCHW uint8, y_B, rows_B) -> losses_B, one per image."""


def cross_entropy(model: nn.Module, x_BCHW: Tensor, y_B: Tensor, rows_B: Tensor) -> Tensor:
    """The usual objective of a classifier."""
    return F.cross_entropy(model(x_BCHW), y_B, reduction="none")


def fit(
    victim: Trained,
    split: Split,
    recipe: Recipe,
    rng: Generator,
    objective: Objective = cross_entropy,
    name: str = "training",
    frozen: Sequence[nn.Module] = (),
    beside: Stateful | None = None,
    watch: Callable[[], Facts] | None = None,
) -> Trained:
    """Train the victim in place, all but its `frozen` parts, and return it on the CPU, in eval mode.

    What `watch` finds after an epoch is reported with it, if somebody wants to know; it may not draw from `rng`. Resumes from the
    runtime's checkpoint of this name, which keeps what the objective learns `beside` the victim, too. Raises UserError when the
    loss is no longer finite.
    """
    runtime, device = current(), group.device()
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    victim.to(device).to(memory_format=layout)
    still = [
        path for path, module in victim.named_modules() if any(module is part for part in frozen)
    ]
    for part in frozen:
        part.requires_grad_(False)
    model = ddp.wrap(victim).train()
    for path in still:  # by name: on a GPU, `wrap` may have put other modules in their place
        victim.get_submodule(path).eval()
    optimizer = new_optimizer(model, recipe)
    compiled = runtime.compile and group.world() == 1
    if compiled:
        model = _compiled(model)
    n, batch = len(split), min(recipe.batch_size, len(split))
    steps, mine = n // batch, group.shard(torch.arange(batch))
    scheduler = LambdaLR(optimizer, lambda step: lr_factor(recipe, step / (steps * recipe.epochs)))
    x_NCHW, y_N = split.x_NCHW.to(device), split.y_N.to(device)

    changing: dict[str, Stateful] = {
        "victim": victim,
        "optimizer": optimizer,
        "scheduler": scheduler,
    }
    course = TrainingRun(
        name, recipe.epochs, rng, changing | ({"beside": beside} if beside is not None else {})
    )
    for epoch in course.left():
        began, total = time.monotonic(), torch.zeros((), device=device)
        order_N = torch.randperm(n, generator=rng)
        for rows_B in order_N[: steps * batch].view(steps, batch):
            draw = augmentation.draw(recipe.augment, batch, x_NCHW.shape[-1], rng)
            rows = group.send(rows_B[mine])
            x_BCHW = augmentation.apply(
                x_NCHW[rows], None if draw is None else group.send(draw[:, mine])
            )
            with bf16(device, recipe.precision == "auto", compiled):
                losses_B = objective(
                    model, x_BCHW.contiguous(memory_format=layout), y_N[rows], rows
                )
            summed = losses_B.float().sum()
            optimizer.zero_grad(set_to_none=True)
            (summed * (group.world() / batch)).backward()
            if recipe.clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
            optimizer.step()
            scheduler.step()
            total += summed.detach()
        loss = float(group.sum_over(total)) / (steps * batch)
        if not math.isfinite(loss):
            raise UserError(
                f"{name}: the loss is {loss} after epoch {epoch + 1} of {recipe.epochs}",
                f"Lower lr (now {recipe.lr:g}), set warmup or clip, or set precision: fp32.",
                exit_code=1,
            )
        speed = steps * batch / (time.monotonic() - began)
        lr, seen = scheduler.get_last_lr()[0], {}
        if watch is not None and runtime.watched:
            seen = watch()
            model.train()
            for path in still:
                victim.get_submodule(path).eval()
        course.ended(loss=loss, lr=lr, images_per_second=speed, **seen)
    ddp.unwrap(model)
    for path in still:
        victim.get_submodule(path).requires_grad_(True)
    return victim.to("cpu").to(memory_format=torch.contiguous_format).eval()


def _compiled(model: nn.Module) -> nn.Module:
    """The same numbers but for rounding, in fewer kernels. What can't be compiled, as for want of a compiler, runs as it is."""
    import torch._dynamo

    torch._dynamo.config.suppress_errors = True
    logging.getLogger("torch._dynamo").setLevel(logging.ERROR)
    compiled = torch.compile(model)
    assert isinstance(compiled, nn.Module)
    return compiled
