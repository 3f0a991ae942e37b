"""`fit` trains one network on one split by a recipe: the usual case of the loop in `epochs.py`.

It adds device, bf16, memory layout, data parallelism, torch.compile, frozen parts and the recipe's
schedule. The loss is the mean over the whole batch, whatever the number of workers.
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from raybd.distributed import ddp, group
from raybd.training.checkpoints import Stateful
from raybd.training.classifier_recipe import ClassifierRecipe
from raybd.training.epochs import Batch, Epochs, Stream
from raybd.training.moving_average import MovingAverage
from raybd.training.precision import bf16
from raybd.training.recipe import Recipe, new_optimizer, new_schedule
from raybd.training.runtime import Facts, current
from raybd.types.data import Split
from raybd.types.errors import UserError

Trained = TypeVar("Trained", bound=nn.Module)


Objective = Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]
"""(model, x_BCHW uint8, y_B, rows_B) -> losses_B, one per image."""
Step = Callable[[Epochs, Callable[[], Tensor]], None]
"""(loop, loss): what is done with a batch. `loss` computes the batch's mean loss, once for each
pass that the step makes, with the weights as they are then."""


def cross_entropy(model: nn.Module, x_BCHW: Tensor, y_B: Tensor, rows_B: Tensor) -> Tensor:
    """Return the cross-entropy of each image: the usual objective of a classifier."""
    return F.cross_entropy(model(x_BCHW), y_B, reduction="none")


def one_pass(loop: Epochs, loss: Callable[[], Tensor]) -> None:
    """Go one step down the loss of the batch: the usual step."""
    loop.step(loss())


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
    step: Step = one_pass,
    moving_statistics: bool = True,
    after_step: Callable[[], None] | None = None,
    until: Callable[[], bool] | None = None,
    intermediate_scores: Callable[[], Tensor] | None = None,
    intermediate_facts: Callable[[], Facts] | None = None,
) -> Trained:
    """Train a victim in place, apart from its `frozen` parts; return it on the CPU, in eval mode.

    The split holds images, or embeddings z_ND for a head. Resumes from the runtime's checkpoint of
    this name, which includes `extra_state` (what the objective learns). `step` may make several
    passes over a batch, and draw from `rng`; the epoch's loss is the mean over all passes. Without
    `moving_statistics` the victim trains in eval mode: batch normalisation uses the statistics that
    it has, and keeps them. `after_step` is called after each step; `until` before each epoch, where
    it may end the training. In a watched runtime, `intermediate_scores` (see `runtime.report`) and
    `intermediate_facts` (found without any truth) are reported after each epoch. None of these may
    draw from `rng`. Raises UserError when the loss is no longer finite.
    """
    usual = recipe if isinstance(recipe, ClassifierRecipe) else None
    if usual is not None and objective is not cross_entropy:
        _check_loss(name, usual)
    model = _Model(victim, recipe, frozen, moving_statistics)
    state: dict[str, Stateful] = {"victim": victim}
    average = MovingAverage(victim, usual.ema) if usual and usual.ema else None
    if average is not None:
        state["average"] = average
        after_step = _both(average.update, after_step)
    stream = Stream(split.x_NCHW, split.y_N, recipe.batch_size, recipe.augment, recipe.bounds)
    loop = Epochs(
        name,
        recipe.epochs,
        stream,
        rng,
        state if extra_state is None else state | {"extra_state": extra_state},
        # What a batch is mixed with: the same rows, in an order and augmentation of their own.
        further=[stream] if usual and usual.mixup else [],
        optimizers=[model.optimizer],
        schedule=lambda optimizer, steps: new_schedule(optimizer, recipe, steps),
        clip=recipe.clip,
        after_step=after_step,
        hint=f"Lower lr (now {recipe.lr:g}), set warmup or clip, or set precision: fp32.",
    )
    for _ in loop.remaining():
        # Before the epoch and not after it, so that a training that resumes here ends here, too.
        if until is not None and until():
            break
        model.train()
        for batch in loop.batches():
            chosen = objective
            if usual is not None and objective is cross_entropy:
                chosen = _usual(usual, batch, rng)
            step(loop, partial(model.loss, loop, chosen, batch))
        facts = intermediate_facts() if intermediate_facts and current().watched else {}
        loop.end_epoch(intermediate_scores=intermediate_scores, lr=loop.lr, **facts)
    model.release()
    if average is not None:
        average.hand_out()
    # The layout is a matter of speed here: what is handed out does not depend on it.
    return victim.to("cpu").to(memory_format=torch.contiguous_format).eval()


def _usual(recipe: ClassifierRecipe, batch: Batch, rng: Generator) -> Objective:
    """Return the objective of a recipe on one batch; what is random in it is drawn here, once."""
    share = recipe.mixing_share(rng)

    def losses(model: nn.Module, x_BCHW: Tensor, y_B: Tensor, rows_B: Tensor) -> Tensor:
        return recipe.losses(model, x_BCHW, batch, share)

    return losses


def _check_loss(name: str, recipe: ClassifierRecipe) -> None:
    """Raise UserError where a training with a loss of its own would leave fields out."""
    if recipe.label_smoothing or recipe.mixup:
        raise UserError(
            f"{name}: its loss has no label_smoothing and no mixup",
            "Leave them out of the trainer.",
            exit_code=1,
        )


def _both(first: Callable[[], None], second: Callable[[], None] | None) -> Callable[[], None]:
    """Return what calls both."""

    def call() -> None:
        first()
        if second is not None:
            second()

    return call


class _Model:
    """A victim as it is trained: on the device, in a group, perhaps compiled, partly frozen."""

    def __init__(
        self, victim: nn.Module, recipe: Recipe, frozen: Sequence[nn.Module], moving: bool
    ) -> None:
        self.victim = victim
        self.moving = moving
        self.recipe = recipe
        self.layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
        victim.to(group.device()).to(memory_format=self.layout)

        # Frozen parts are found again by their paths: on a GPU, `wrap` may replace modules.
        modules = victim.named_modules()
        self.frozen = [path for path, module in modules if any(module is part for part in frozen)]
        for part in frozen:
            # Before `wrap`: data parallelism waits for every gradient that it was told of.
            part.requires_grad_(False)

        self.model = ddp.wrap(victim).train()
        self.optimizer = new_optimizer(self.model, recipe)
        self.compiled = current().compile and group.world() == 1
        if self.compiled:
            self.model = _compiled(self.model)

    def train(self) -> None:
        """Put all but the frozen parts into training mode. (Inference leaves networks in eval.)"""
        self.model.train(self.moving)
        for path in self.frozen:
            # Frozen weights do not suffice: in training mode batch statistics would still move.
            self.victim.get_submodule(path).eval()

    def loss(self, loop: Epochs, objective: Objective, batch: Batch) -> Tensor:
        """Return the loss whose mean over the workers is that of the batch; the loop counts it."""
        # The group averages the gradients of the workers' sums; the factor makes that the mean over
        # the batch, also where shares differ in size. In float: bf16 would round a sum.
        summed = self.losses(objective, batch).float().sum()
        loop.add_loss(summed, batch.size)
        return summed * (group.world() / batch.size)

    def losses(self, objective: Objective, batch: Batch) -> Tensor:
        """Return the losses of this worker's images, after augmentation."""
        x_BCHW = batch.augmented(batch.x_B)
        if x_BCHW.ndim == 4:  # embeddings have no memory layout to choose
            x_BCHW = x_BCHW.contiguous(memory_format=self.layout)
        with bf16(group.device(), self.recipe.precision == "auto", self.compiled):
            return objective(self.model, x_BCHW, batch.y_B, batch.rows_B)

    def release(self) -> None:
        """Undo what was done to the victim, apart from its training."""
        ddp.unwrap(self.model)
        for path in self.frozen:
            self.victim.get_submodule(path).requires_grad_(True)


def _compiled(model: nn.Module) -> nn.Module:
    """Return the model in fewer kernels, with the same numbers up to rounding.

    What cannot be compiled, for example because there is no compiler, runs as it is.
    """
    import torch._dynamo

    torch._dynamo.config.suppress_errors = True
    # It would warn at each part that falls back, which is allowed here.
    logging.getLogger("torch._dynamo").setLevel(logging.ERROR)
    compiled = torch.compile(model)
    assert isinstance(compiled, nn.Module)
    return compiled
