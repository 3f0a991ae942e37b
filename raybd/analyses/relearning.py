"""Re-learning: how fast a backdoor returns when a few poisoned images are trained on.

Min, Qin, Zhang, Shen and Cheng 2024, arXiv 2410.09838, section on the retuning attack: a low attack
success does not show that a repair has removed a backdoor, because a few poisoned images can bring
it back.
Differs: attack success after each step stands beside that after the last one; the few images are
test images with the trigger, and success is measured on the others. Any network learns the trigger
in the end. So compare with the clean twin, which the table holds, too (an experiment trains it for
this): what returns no faster than the twin learns it was removed.
"""

import copy
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor

from raybd.distributed import group
from raybd.metrics.classification import attack_success, clean_accuracy, predictions
from raybd.training.epochs import Epochs, Stream
from raybd.training.inference import infer
from raybd.types.data import Split
from raybd.types.errors import UserError
from raybd.types.methods import Analysis, AnalysisInput, Pairs
from raybd.types.models import Victim

if TYPE_CHECKING:
    import pyarrow as pa


class Relearning(Analysis):
    """Attack success after each of a few steps on clean images and a few poisoned ones."""

    needs_trigger: ClassVar[bool] = True
    looks_at_twin: ClassVar[bool] = True
    images: int = Field(10, ge=1)
    """Poisoned images that are trained on, all of them in each step."""
    clean_images: int = Field(64, ge=1)
    """Clean images in each step, all there are if there are fewer; they keep the task."""
    steps: int = Field(30, ge=1)
    """Steps of SGD."""
    every: int = Field(1, ge=1)
    """Attack success is measured after so many steps, and after the last one."""
    lr: float = Field(0.01, gt=0)
    """Learning rate, the same in each step."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of SGD."""
    measured: int = Field(500, ge=1)
    """Largest number of other test images that attack success is measured on."""

    def analyse(self, given: AnalysisInput, rng: Generator) -> "pa.Table":
        """Return step (0: as it was), attack success and clean accuracy after it, and loss.

        Both are shares of the same images, with and without the trigger; the loss is that of the
        step, and null in the first row. Each row also has the number of poisoned images. Workers
        train the same copy. Raises UserError if there are no test images to measure on.
        """
        import pyarrow as pa

        pairs, clean = given.pairs, given.clean
        order_M = torch.randperm(len(pairs), generator=rng)
        few, others = order_M[: self.images], order_M[self.images :][: self.measured]
        if not len(others) or not len(clean):
            raise UserError(
                f"relearning: {len(pairs)} test images count and {len(clean)} are clean; it needs "
                f"more than {self.images} and one",
                "Lower images, or take more test or clean images.",
                exit_code=1,
            )
        curve = _Curve(pairs, others)
        self._train(copy.deepcopy(given.victim), clean, _poisoned(pairs, few), curve, rng)

        rows = curve.rows
        return pa.table(
            {
                "images": pa.array([len(few)] * len(rows), pa.int32()),
                "step": pa.array([row["step"] for row in rows], pa.int32()),
                "attack_success": pa.array([row["attack_success"] for row in rows], pa.float32()),
                "clean_accuracy": pa.array([row["clean_accuracy"] for row in rows], pa.float32()),
                "loss": pa.array([row["loss"] for row in rows], pa.float32()),
            }
        )

    def _train(
        self, victim: Victim, clean: Split, poisoned: Split, curve: "_Curve", rng: Generator
    ) -> None:
        """Train a copy in place, and measure it on the way."""
        victim.to(group.device())
        sgd = torch.optim.SGD(victim.parameters(), self.lr, self.momentum)
        # Not divided between workers: so few images would change what a normalisation sees.
        stream = Stream(clean.x_NCHW, clean.y_N, self.clean_images, sharded=False)
        few = Stream(poisoned.x_NCHW, poisoned.y_N, len(poisoned), sharded=False)
        steps_per_epoch = max(1, len(clean) // self.clean_images)
        loop = Epochs(
            "relearning",
            -(-self.steps // steps_per_epoch),
            stream,
            rng,
            {"victim": victim, "curve": curve},
            further=[few],
            optimizers=[sgd],
            hint="Lower lr.",
        )
        if not curve.rows:
            curve.measure(victim, 0, None)
        for _ in loop.remaining():
            for batch in loop.batches():
                if curve.step == self.steps:
                    continue
                victim.train()
                x_BCHW = torch.cat([batch.x_B, *(one.x_B for one in batch.further)])
                y_B = torch.cat([batch.y_B, *(one.y_B for one in batch.further)])
                loss = F.cross_entropy(victim(x_BCHW), y_B)
                loop.step(loss)
                loop.add_loss(loss * len(y_B) / group.world(), len(y_B))

                curve.step += 1
                if curve.step % self.every == 0 or curve.step == self.steps:
                    curve.measure(victim, curve.step, float(loss.detach()))
            loop.end_epoch(lr=self.lr)


class _Curve:
    """The rows of the table, which a checkpoint holds, too."""

    def __init__(self, pairs: Pairs, others: Tensor) -> None:
        self._x_MCHW = pairs.x_MCHW[others]
        self._worn_MCHW = pairs.worn_MCHW[others]
        self._y_M = pairs.y_M[others]
        self._wanted_M = pairs.wanted_M[others]
        self.step = 0
        self.rows: list[dict[str, Any]] = []

    def measure(self, victim: Victim, step: int, loss: float | None) -> None:
        """Add the row of a step."""
        triggered_M = predictions(infer(victim, self._worn_MCHW))
        plain_M = predictions(infer(victim, self._x_MCHW))
        self.rows.append(
            {
                "step": step,
                "attack_success": attack_success(triggered_M, self._wanted_M),
                "clean_accuracy": clean_accuracy(plain_M, self._y_M),
                "loss": loss,
            }
        )

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed training needs."""
        return {"step": self.step, "rows": self.rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state that `state_dict` returned."""
        self.step = state["step"]
        self.rows = state["rows"]


def _poisoned(pairs: Pairs, few: Tensor) -> Split:
    """Return test images with the trigger and the labels that the attacker wants."""
    return Split(pairs.worn_MCHW[few], pairs.wanted_M[few])
