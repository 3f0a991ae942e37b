"""THE training loop, and batched inference: device, bf16, channels_last, DDP, augmentation, schedule, checkpoint, resume.

Everything random is drawn for the global batch and then sharded, and the loss is the mean over the global batch, so that the
number of workers does not change the experiment.
"""

import copy
import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from raybd import augmentation, parallel
from raybd.augmentation import Augment
from raybd.precision import bf16
from raybd.runtime import Course, Facts, Stateful, current
from raybd.types import Config, Network, Split, UserError, Victim

Trained = TypeVar("Trained", bound=nn.Module)


Objective = Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]
"""(model, x_BCHW uint8, y_B, rows_B) -> losses_B, one per image."""


class Recipe(Config):
    """How a network is trained; the fields that every trainer has. Defaults: BackdoorBench's common ones."""

    epochs: int = Field(100, ge=1)
    """Passes over the training images."""
    batch_size: int = Field(128, ge=1)
    """Images per step over all workers; the last, smaller batch of an epoch is dropped."""
    optimizer: Literal["sgd", "adam"] = "sgd"
    """SGD has Nesterov momentum; Adam decouples its weight decay."""
    lr: float = Field(0.01, gt=0)
    """Highest learning rate."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of SGD."""
    weight_decay: float = Field(5e-4, ge=0)
    """L2 penalty (SGD) or decoupled decay (Adam)."""
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    """How the learning rate falls: to zero at the last step, by `gamma` at each milestone, or not at all."""
    milestones: tuple[float, ...] = (0.5, 0.75)
    """Where a step schedule falls, as shares of the training."""
    gamma: float = Field(0.1, gt=0, le=1)
    """Factor at each milestone."""
    warmup: float = Field(0.0, ge=0, lt=1)
    """Share of the training over which the learning rate rises from zero."""
    clip: float | None = Field(None, gt=0)
    """Largest norm of the gradient."""
    augment: Augment = "crop_flip"
    """Random crop (padding of an eighth of the side) and flip, either alone, or none; drawn for each image."""
    precision: Literal["auto", "fp32"] = "auto"
    """auto: bf16 autocast where the hardware has it."""
    channels_last: bool = True
    """Memory layout; faster for convolutions."""


def fresh_copy(victim: Victim, rng: Generator) -> Victim:
    """The same architecture with newly drawn weights, by each layer's own rule; the preprocessing is kept."""
    seed = int(torch.randint(2**31, (1,), generator=rng))
    copied = copy.deepcopy(victim)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        redrawn = set[int]()
        for module in copied.modules():
            if callable(redraw := getattr(module, "reset_parameters", None)):
                redraw()
                redrawn |= {id(parameter) for parameter in module.parameters(recurse=False)}
        for parameter in copied.parameters():
            if id(parameter) not in redrawn:  # class tokens, position embeddings, layer scales: no layer owns them
                nn.init.trunc_normal_(parameter.data, std=0.02)
    return copied


def new_victim(split: Split, num_classes: int, network: Network, rng: Generator) -> Victim:
    """A freshly initialised classifier that normalises with the mean and deviation of the split.

    An encoder with `moments` of its own (mean and deviation of the channels that its weights were made with) keeps those.
    """
    seed = int(torch.randint(2**31, (1,), generator=rng))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder, head = network.build(num_classes, split.x_NCHW.shape[-1])
    moments = getattr(encoder, "moments", None)
    mean_C, std_C = _channel_moments(split.x_NCHW) if moments is None else (torch.tensor(part) for part in moments)
    return Victim(encoder, head, mean_C, std_C)


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
    runtime, device = current(), parallel.device()
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    victim.to(device).to(memory_format=layout)
    still = [path for path, module in victim.named_modules() if any(module is part for part in frozen)]
    for part in frozen:
        part.requires_grad_(False)
    model = parallel.wrap(victim).train()
    for path in still:  # by name: on a GPU, `wrap` may have put other modules in their place
        victim.get_submodule(path).eval()
    optimizer = _optimizer(model, recipe)
    compiled = runtime.compile and parallel.world() == 1
    if compiled:
        model = _compiled(model)
    n, batch = len(split), min(recipe.batch_size, len(split))
    steps, mine = n // batch, parallel.shard(torch.arange(batch))
    scheduler = LambdaLR(optimizer, lambda step: _lr_factor(recipe, step / (steps * recipe.epochs)))
    x_NCHW, y_N = split.x_NCHW.to(device), split.y_N.to(device)

    changing: dict[str, Stateful] = {"victim": victim, "optimizer": optimizer, "scheduler": scheduler}
    course = Course(name, recipe.epochs, rng, changing | ({"beside": beside} if beside is not None else {}))
    for epoch in course.left():
        began, total = time.monotonic(), torch.zeros((), device=device)
        order_N = torch.randperm(n, generator=rng)
        for rows_B in order_N[: steps * batch].view(steps, batch):
            draw = augmentation.draw(recipe.augment, batch, x_NCHW.shape[-1], rng)
            rows = parallel.send(rows_B[mine])
            x_BCHW = augmentation.apply(x_NCHW[rows], None if draw is None else parallel.send(draw[:, mine]))
            with bf16(device, recipe.precision == "auto", compiled):
                losses_B = objective(model, x_BCHW.contiguous(memory_format=layout), y_N[rows], rows)
            summed = losses_B.float().sum()
            optimizer.zero_grad(set_to_none=True)
            (summed * (parallel.world() / batch)).backward()
            if recipe.clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
            optimizer.step()
            scheduler.step()
            total += summed.detach()
        loss = float(parallel.sum_over(total)) / (steps * batch)
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
    parallel.plain(model)
    for path in still:
        victim.get_submodule(path).requires_grad_(True)
    return victim.to("cpu").to(memory_format=torch.contiguous_format).eval()


@torch.no_grad()
def infer(
    victim: Victim,
    x_NCHW: Tensor,
    output: Callable[[Tensor], Tensor] | None = None,
    exact: bool = True,
    batch_size: int = 500,
) -> Tensor:
    """`output` (the victim itself, unless given: x_BCHW uint8 -> something_B...) over all images, in eval mode, float32 on the CPU.

    Sharded over the workers; every worker gets all rows. `exact=False` allows bf16 where the hardware has it.
    """
    device = parallel.device()
    victim = victim.to(device).eval()
    output, out_N = output or victim, torch.empty(0)
    mine, start = len(parallel.shard(torch.arange(len(x_NCHW)))), 0
    with bf16(device, not exact):
        for rows_B in parallel.batches(len(x_NCHW), batch_size):
            x_BCHW = parallel.send(x_NCHW[rows_B])
            part_B = output(x_BCHW.contiguous(memory_format=torch.channels_last)).float()
            if not start:
                out_N = part_B.new_empty((mine, *part_B.shape[1:]))
            out_N[start : start + len(part_B)] = part_B
            start += len(part_B)
    return parallel.gather_rows(out_N, len(x_NCHW)).cpu()


def embeddings(victim: Victim, split: Split) -> Tensor:
    """z_ND of a split's images: as they came with it from a stage before, or computed now."""
    return infer(victim, split.x_NCHW, victim.embed) if split.z_ND is None else split.z_ND


def _compiled(model: nn.Module) -> nn.Module:
    """The same numbers but for rounding, in fewer kernels. What can't be compiled, as for want of a compiler, runs as it is."""
    import torch._dynamo

    torch._dynamo.config.suppress_errors = True
    logging.getLogger("torch._dynamo").setLevel(logging.ERROR)
    compiled = torch.compile(model)
    assert isinstance(compiled, nn.Module)
    return compiled


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    parameters = [p for p in model.parameters() if p.requires_grad]
    if recipe.optimizer == "adam":
        return torch.optim.AdamW(parameters, recipe.lr, weight_decay=recipe.weight_decay, fused=True)
    nesterov = recipe.momentum > 0
    return torch.optim.SGD(parameters, recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay, nesterov=nesterov, fused=True)


def _lr_factor(recipe: Recipe, progress: float) -> float:
    """The learning rate at a share of the training, as a factor of `lr`."""
    if progress < recipe.warmup:
        return max(progress, 1e-3) / recipe.warmup
    if recipe.schedule == "cosine":
        left = (progress - recipe.warmup) / (1 - recipe.warmup)
        return 0.5 * (1 + math.cos(math.pi * min(left, 1.0)))
    if recipe.schedule == "step":
        return recipe.gamma ** sum(progress >= milestone for milestone in recipe.milestones)
    return 1.0


def _channel_moments(x_NCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel, of pixels in 0..1."""
    n = x_NCHW.numel() / x_NCHW.shape[1]
    chunks = x_NCHW.split(256)  # sums of whole numbers are exact in double precision, however they are parted
    mean = sum(chunk.double().sum((0, 2, 3)) for chunk in chunks) / n / 255
    square = sum(chunk.double().square().sum((0, 2, 3)) for chunk in chunks) / n / 255**2
    assert isinstance(mean, Tensor) and isinstance(square, Tensor)
    return mean.float(), (square - mean.square()).clamp_min(1e-4).sqrt().float()
