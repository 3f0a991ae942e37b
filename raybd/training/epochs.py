"""The loop under every training: batches, steps, learning rates, checkpoints and epoch reports.

Everything random is drawn for the whole batch and then divided between the workers, so that the
number of workers does not change the experiment. A training of one network with one loss:

    loop = Epochs("x", 10, Stream(x_NCHW, y_N, 128), rng, {"model": model}, optimizers=[sgd])
    for _ in loop.remaining():
        for batch in loop.batches():
            logits_BK = model(batch.augmented(batch.x_B))
            loss = F.cross_entropy(logits_BK, batch.y_B, reduction="sum")
            loop.step(loss * (group.world() / batch.size))
            loop.add_loss(loss, batch.size)
        loop.end_epoch()
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from raybd.distributed import group
from raybd.training import augmentation
from raybd.training.augmentation import EIGHTH, Augment, Bounds
from raybd.training.checkpoints import Stateful, TrainingRun
from raybd.training.plateau import Plateau
from raybd.training.runtime import Epoch, show
from raybd.types.errors import UserError
from raybd.types.models import Victim

Schedule = Callable[[Optimizer, int], LRScheduler]
"""(optimizer, steps of the whole training) -> the schedule of its learning rate."""


@dataclass(frozen=True)
class Stream:
    """What batches are drawn from, without replacement."""

    x_N: Tensor
    """Images x_NCHW (uint8), or rows of another shape, such as embeddings z_ND."""
    y_N: Tensor
    """Labels, int64."""
    batch_size: int
    """Rows per step over all workers; all rows where there are fewer."""
    augment: Augment = "none"
    """How `Batch.augmented` changes the images."""
    bounds: Bounds = EIGHTH
    """How far it changes them."""
    sharded: bool = True
    """Whether each worker gets its share of a batch. Otherwise every worker gets all of it."""

    def __len__(self) -> int:
        return len(self.y_N)


@dataclass(frozen=True)
class Batch:
    """This worker's rows of one batch, on the device."""

    x_B: Tensor
    """The rows as they are in the stream. A method may change them, and the labels, before it
    passes them to `augmented`."""
    y_B: Tensor
    """Their labels."""
    rows_B: Tensor
    """Their places in the stream."""
    all_rows_B: Tensor
    """The places of the whole batch over all workers, on the CPU."""
    draw: Tensor | None
    """How each image is augmented; None: not at all."""
    bounds: Bounds = EIGHTH
    """How far that goes."""
    further: tuple["Batch", ...] = ()
    """One batch of each further stream."""

    @property
    def size(self) -> int:
        """Rows of the whole batch, over all workers."""
        return len(self.all_rows_B)

    def augmented(self, x_BCHW: Tensor) -> Tensor:
        """Return images, one for each row of this batch, augmented each by its own draw."""
        return augmentation.apply(x_BCHW, self.draw, self.bounds)


class Epochs:
    """The epochs of one training, which resumes from the runtime's checkpoint of its name."""

    def __init__(
        self,
        name: str,
        epochs: int,
        stream: Stream,
        rng: Generator,
        state: Mapping[str, Stateful],
        *,
        further: Sequence[Stream] = (),
        optimizers: Sequence[Optimizer] = (),
        schedule: Schedule | None = None,
        clip: float | None = None,
        after_step: Callable[[], None] | None = None,
        hint: str = "Lower the learning rate.",
    ) -> None:
        """Prepare the training, and resume it if there is a checkpoint.

        An epoch is one pass over `stream`; batches of the `further` streams, of any length, are
        drawn anew for each step. `state` is all that the training changes, apart from the
        optimizers and `rng`. `clip` is the largest norm of a gradient. `after_step` is called
        after each step. `hint` says what to do when the loss is not finite.
        """
        self.name = name
        self.epochs = epochs
        self.rng = rng
        self.clip = clip
        self.after_step = after_step
        self.hint = hint
        # All rows move once, so that a batch costs an index and no transfer.
        self.stream = _on_device(stream)
        self.further = [
            # The same rows a second time need no second copy on the device.
            replace(other, x_N=self.stream.x_N, y_N=self.stream.y_N)
            if other.x_N is stream.x_N and other.y_N is stream.y_N
            else _on_device(other)
            for other in further
        ]
        # Otherwise a set below the batch size would make no step.
        self.batch_size = min(stream.batch_size, len(stream))
        self.steps = len(stream) // self.batch_size
        self.optimizers = list(optimizers)

        self._schedules: dict[Optimizer, LRScheduler] = {}
        if schedule is not None:
            self._schedules = {of: schedule(of, self.steps * epochs) for of in optimizers}

        # Optimizers and schedules have a memory, without which a resumed training would diverge.
        parts = dict(state)
        for at, optimizer in enumerate(self.optimizers):
            parts[f"optimizer {at}"] = optimizer
            if optimizer in self._schedules:
                parts[f"schedule {at}"] = self._schedules[optimizer]
        # Encoders without a head predict nothing, and of several victims none is the one.
        victims = [part for part in state.values() if isinstance(part, Victim)]
        self._victim = victims[0] if len(victims) == 1 and victims[0].head is not None else None
        self._run = TrainingRun(name, epochs, rng, parts)

    @property
    def lr(self) -> float:
        """The learning rate of the first optimizer."""
        return float(self.optimizers[0].param_groups[0]["lr"])

    def remaining(self) -> range:
        """Return the epochs that are still to come, counted from 0."""
        return self._run.remaining_epochs()

    def batches(self, rows: Iterable[Tensor] | None = None) -> Iterator[Batch]:
        """Yield the batches of one epoch. Rows that do not fill a batch are left out.

        With `rows`, yield batches of these rows of the stream instead, one for each tensor; an
        epoch may have several such passes, and its loss is that of the last one.
        Meanwhile torch's global stream, which stochastic depth and dropout draw from, is one that
        `rng` decides.
        """
        with _global_stream_of(self.rng):
            yield from self._batches(self.drawn() if rows is None else rows)

    def drawn(self, among: Tensor | None = None) -> Iterable[Tensor]:
        """Return rows of the stream (all, or those `among`) in a random order, batch by batch.

        Rows that do not fill a batch are left out; fewer than a batch are one.
        """
        count = len(self.stream) if among is None else len(among)
        order_N = torch.randperm(count, generator=self.rng)
        size = min(self.batch_size, count)
        places = order_N[: count // max(size, 1) * size].split(max(size, 1))
        return places if among is None else [among[place_B] for place_B in places]

    def _batches(self, chosen: Iterable[Tensor]) -> Iterator[Batch]:
        began = time.monotonic()
        # On the device: a float would make the CPU wait for the GPU at every step.
        self._total = torch.zeros((), device=group.device())
        self._count = 0
        seen = 0
        for rows_B in chosen:
            seen += len(rows_B)
            batch = self._batch(self.stream, rows_B)
            others = tuple(self._batch(other, self._draw(other)) for other in self.further)
            yield replace(batch, further=others) if others else batch

        # A GPU still computes here; reading the loss waits for it, so the time is taken after it.
        self._loss = float(group.sum_over(self._total)) / self._count if self._count else 0.0
        self._seconds = time.monotonic() - began
        self._speed = seen / self._seconds

    def step(self, loss: Tensor, *optimizers: Optimizer) -> None:
        """Go one step down the mean of `loss` over the workers.

        With these optimizers, or with all of them. Their schedules go one step, too.
        """
        self.backward(loss, *optimizers)
        self.descend(*optimizers)

    def backward(self, loss: Tensor, *optimizers: Optimizer) -> None:
        """Replace the gradients by those of the mean of `loss` over the workers, clipped.

        The first half of a step, for methods that look at several losses before they move.
        """
        chosen = optimizers or self.optimizers
        for optimizer in chosen:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.clip is not None:
            # One norm over all optimizers of the step, which descend the same loss.
            nn.utils.clip_grad_norm_(_parameters(chosen), self.clip)

    def descend(self, *optimizers: Optimizer) -> None:
        """Move along the gradients that are there: the second half of a step."""
        chosen = optimizers or self.optimizers
        for optimizer in chosen:
            optimizer.step()

        for optimizer in chosen:
            if optimizer in self._schedules:
                self._schedules[optimizer].step()
        if self.after_step is not None:
            self.after_step()

    def add_loss(self, summed: Tensor, count: int) -> None:
        """Count a sum of losses into the mean of the epoch.

        `summed` is this worker's part of the sum, `count` the number of losses over all workers.
        """
        # Detached, or the sum would keep the graph of every step in memory.
        self._total += summed.detach()
        self._count += count

    def end_epoch(
        self,
        loss: float | None = None,
        intermediate_scores: Callable[[], Tensor] | None = None,
        **facts: Any,
    ) -> None:
        """Report the epoch, and save a checkpoint if it is time.

        The loss is the mean of the epoch unless another one is given. `intermediate_scores` is
        explained at `runtime.report`. Raises UserError when the loss is not finite.
        """
        loss = self._loss if loss is None else loss
        # Before the checkpoint is saved, so that a rerun does not resume from broken weights.
        if not math.isfinite(loss):
            done = self._run.epochs_done + 1
            raise UserError(
                f"{self.name}: the loss is {loss} after epoch {done} of {self.epochs}",
                self.hint,
                exit_code=1,
            )
        # Both before the checkpoint, which holds what was seen, and the rate to go on with.
        if self._victim is not None:
            lr = self.lr if self.optimizers else None
            done = self._run.epochs_done + 1
            show(Epoch(self.name, done, self._victim, lr, self._seconds))
        for schedule in self._schedules.values():
            if isinstance(schedule, Plateau):
                schedule.end_epoch(loss)
        self._run.end_epoch(intermediate_scores, loss=loss, images_per_second=self._speed, **facts)

    def _draw(self, stream: Stream) -> Tensor:
        return torch.randperm(len(stream), generator=self.rng)[: stream.batch_size]

    def _batch(self, stream: Stream, rows_B: Tensor) -> Batch:
        height, width = stream.x_N.shape[-2:]
        # Drawn before the rows are divided, for the same stream on any number of workers.
        draw = augmentation.draw(
            stream.augment, len(rows_B), height, width, self.rng, stream.bounds
        )
        places_B = torch.arange(len(rows_B))
        mine = group.shard(places_B) if stream.sharded else places_B
        rows = group.to_device(rows_B[mine])
        if draw is not None:
            draw = group.to_device(draw[:, mine])
        return Batch(stream.x_N[rows], stream.y_N[rows], rows, rows_B, draw, stream.bounds)


@contextmanager
def _global_stream_of(rng: Generator) -> Iterator[None]:
    """Let torch's global stream follow from the state of `rng`, and put it back at the end.

    Nothing is drawn from `rng`. A checkpoint holds its state, so that a resumed epoch has the same
    global stream. Each worker has one of its own, because it has other images.
    """
    digest = sha256(rng.get_state().numpy().tobytes() + bytes([group.rank() % 256])).digest()
    devices = [torch.cuda.current_device()] if group.device().type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(int.from_bytes(digest[:7], "big"))
        yield


def _on_device(stream: Stream) -> Stream:
    device = group.device()
    return replace(stream, x_N=stream.x_N.to(device), y_N=stream.y_N.to(device))


def _parameters(optimizers: Sequence[Optimizer]) -> list[Tensor]:
    groups = [part for optimizer in optimizers for part in optimizer.param_groups]
    return [parameter for part in groups for parameter in part["params"]]
