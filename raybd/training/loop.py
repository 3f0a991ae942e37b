"""`fit` trains one network on one split by a recipe: the usual case of the loop in `epochs.py`.

It adds device, bf16, memory layout, data parallelism, torch.compile, frozen parts and the recipe's schedule.
The loss is the mean over the whole batch, whatever the number of workers.
"""

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from raybd.distributed import ddp, group
from raybd.training.checkpoints import Stateful
from raybd.training.epochs import Epochs, Stream
from raybd.training.precision import bf16
from raybd.training.recipe import Recipe, lr_factor, new_optimizer
from raybd.training.runtime import Facts, current
from raybd.types.data import Split

Trained = TypeVar("Trained", bound=nn.Module)


Objective = Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]
"""(model, x_BCHW uint8, y_B, rows_B) -> losses_B, one per image."""


def cross_entropy(model: nn.Module, x_BCHW: Tensor, y_B: Tensor, rows_B: Tensor) -> Tensor:
    """Return the cross-entropy of each image: the usual objective of a classifier."""
    return F.cross_entropy(model(x_BCHW), y_B, reduction="none")


def fit(
    victim: Trained,
    split: Split,
    recipe: Recipe,
    rng: Generator,
    objective: Objective = cross_entropy,
    name: str = "training",
    frozen: Sequence[nn.Module] = (),
    extra_state: Stateful | None = None,
    *,
    after_step: Callable[[], None] | None = None,
    intermediate_scores: Callable[[], Tensor] | None = None,
    intermediate_facts: Callable[[], Facts] | None = None,
) -> Trained:
    """Train the victim in place, apart from its `frozen` parts, and return it on the CPU, in eval mode.

    The split holds images, or embeddings z_ND for a head.
    Resumes from the runtime's checkpoint of this name, which also holds `extra_state`: what the objective
    learns. `after_step` is called after each step. In a watched runtime the `intermediate_scores` (see
    `runtime.report`) and the `intermediate_facts`, which need no truth, are reported after each epoch; neither
    may draw from `rng`. Raises UserError when the loss is no longer finite.
    """
    runtime, device = current(), group.device()
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    victim.to(device).to(memory_format=layout)
    paths = _freeze(victim, frozen)
    model = ddp.wrap(victim)
    optimizer = new_optimizer(model, recipe)
    compiled = runtime.compile and group.world() == 1
    if compiled:
        model = _compiled(model)
    _to_train_mode(model, victim, paths)

    loop = Epochs(
        name,
        recipe.epochs,
        Stream(split.x_NCHW, split.y_N, recipe.batch_size, recipe.augment),
        rng,
        {"victim": victim} | ({} if extra_state is None else {"extra_state": extra_state}),
        optimizers=[optimizer],
        schedule=lambda of, steps: _schedule(of, recipe, steps),
        clip=recipe.clip,
        after_step=after_step,
        hint=f"Lower lr (now {recipe.lr:g}), set warmup or clip, or set precision: fp32.",
    )
    for _ in loop.remaining():
        for batch in loop.batches():
            x_BCHW = batch.augmented(batch.x_B)
            if x_BCHW.ndim == 4:  # embeddings have no layout
                x_BCHW = x_BCHW.contiguous(memory_format=layout)
            with bf16(device, recipe.precision == "auto", compiled):
                losses_B = objective(model, x_BCHW, batch.y_B, batch.rows_B)
            summed = losses_B.float().sum()
            loop.step(summed * (group.world() / batch.size))
            loop.add_loss(summed, batch.size)
        facts = intermediate_facts() if intermediate_facts and runtime.watched else {}
        loop.end_epoch(intermediate_scores=intermediate_scores, lr=loop.lr, **facts)
        _to_train_mode(model, victim, paths)  # computing scores leaves networks in eval mode

    ddp.unwrap(model)
    for path in paths:
        victim.get_submodule(path).requires_grad_(True)
    return victim.to("cpu").to(memory_format=torch.contiguous_format).eval()


def _freeze(victim: nn.Module, frozen: Sequence[nn.Module]) -> list[str]:
    """Switch the gradients of some parts off. Return their paths.

    They are found again by their paths: on a GPU, `ddp.wrap` may put other modules in their places.
    """
    for part in frozen:
        part.requires_grad_(False)
    modules = victim.named_modules()
    return [path for path, module in modules if any(module is part for part in frozen)]


def _to_train_mode(model: nn.Module, victim: nn.Module, frozen_paths: Sequence[str]) -> None:
    model.train()
    for path in frozen_paths:
        victim.get_submodule(path).eval()


def _schedule(optimizer: Optimizer, recipe: Recipe, steps: int) -> LambdaLR:
    return LambdaLR(optimizer, lambda step: lr_factor(recipe, step / steps))


def _compiled(model: nn.Module) -> nn.Module:
    """Return the model in fewer kernels, with the same numbers up to rounding.

    What cannot be compiled, for example because there is no compiler, runs as it is.
    """
    import torch._dynamo

    torch._dynamo.config.suppress_errors = True
    logging.getLogger("torch._dynamo").setLevel(logging.ERROR)
    compiled = torch.compile(model)
    assert isinstance(compiled, nn.Module)
    return compiled
