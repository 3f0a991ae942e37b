"""One confusion: wrong labels of trusted images, and the labels of suspects, at the same time."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from raybd.distributed import ddp, group
from raybd.training.epochs import Epochs, Stream
from raybd.training.inference import infer
from raybd.training.precision import bf16
from raybd.types.data import Split
from raybd.types.models import Victim

NO_DIVISION_BY_ZERO = 0.001
"""Added to the share of a class before its weight is computed."""


@dataclass(frozen=True)
class Round:
    """The settings of one confusion."""

    name: str
    steps: int
    lr: float
    weight: float
    momentum: float
    weight_decay: float
    batch_size: int
    every: int
    exact: bool


def confuse(victim: Victim, suspects: Split, clean: Split, turn: Round, rng: Generator) -> Victim:
    """Confuse a victim in place; return it on the CPU, in eval mode."""
    # What it says before it is confused: a wrong label is another one than this.
    says_NK = infer(victim, clean.x_NCHW)
    num_classes = says_NK.shape[1]
    weight_K = class_weights(suspects.y_N, num_classes).to(group.device())
    victim.to(group.device())
    model = ddp.wrap(victim)

    stream = Stream(clean.x_NCHW, says_NK.argmax(1), turn.batch_size)
    learned = Stream(suspects.x_NCHW, suspects.y_N, turn.batch_size)
    steps_per_epoch = len(stream) // min(turn.batch_size, len(stream))
    sgd = torch.optim.SGD(
        model.parameters(), turn.lr, turn.momentum, weight_decay=turn.weight_decay
    )
    counter = _Steps()
    loop = Epochs(
        turn.name,
        -(-turn.steps // steps_per_epoch),
        stream,
        rng,
        {"victim": victim, "steps": counter},
        further=[learned],
        optimizers=[sgd],
        hint="Lower confusion_lr.",
    )
    for _ in loop.remaining():
        model.train()
        for batch in loop.batches():
            if counter.done == turn.steps:
                continue
            of_suspects = batch.further[0]
            both = counter.done % turn.every == 0
            x_BCHW = torch.cat([batch.x_B, of_suspects.x_B]) if both else batch.x_B
            with bf16(group.device(), not turn.exact):
                logits_BK = model(x_BCHW)
            wrong_B = wrong_labels(batch.y_B, counter.done, num_classes)
            here = len(batch.y_B)
            confusion = F.cross_entropy(logits_BK[:here].float(), wrong_B, reduction="sum")
            loss = confusion * (group.world() / batch.size)
            if both:
                known = _weighted(logits_BK[here:].float(), of_suspects.y_B, weight_K)
                loss = ((turn.weight - 1) * loss + known) / turn.weight
            loop.step(loss)
            loop.add_loss(confusion, batch.size)
            counter.done += 1
        loop.end_epoch(lr=turn.lr)
    ddp.unwrap(model)
    return victim.to("cpu").eval()


def wrong_labels(y_B: Tensor, step: int, num_classes: int) -> Tensor:
    """Return labels shifted by an offset that changes with the step, and is never a whole turn."""
    return (y_B + 1 + step % (num_classes - 1)) % num_classes


def class_weights(y_N: Tensor, num_classes: int) -> Tensor:
    """Return the weight of each class: rarer classes count more, by the root of their shares."""
    share_K = y_N.bincount(minlength=num_classes) / max(len(y_N), 1)
    return (share_K + NO_DIVISION_BY_ZERO).rsqrt()


def _weighted(logits_BK: Tensor, y_B: Tensor, weight_K: Tensor) -> Tensor:
    """Return the weighted mean of the losses over all workers' suspects."""
    loss = F.cross_entropy(logits_BK, y_B, weight_K, reduction="sum")
    total = group.sum_over(weight_K[y_B].sum())
    return loss * (group.world() / total)


class _Steps:
    """Steps that were taken, as a part of a checkpoint."""

    def __init__(self) -> None:
        self.done = 0

    def state_dict(self) -> dict[str, int]:
        return {"done": self.done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.done = state["done"]
