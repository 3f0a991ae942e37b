"""Looks at a victim after each epoch of its training: what it has learned of each group of images.

The truth about the images stays here: the training shows its victim, and nothing comes back.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import pyarrow as pa
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raybd.cells.stage import Result, Stage
from raybd.cells.watched_groups import Group, gather
from raybd.metrics.head_gradients import alignment, mean_gradient
from raybd.results.schemas import DYNAMICS
from raybd.training.inference import infer
from raybd.training.runtime import Epoch, current, watched_by
from raybd.types.data import Dataset, Poisoned, Split
from raybd.types.kept import NOTHING, Kept
from raybd.types.methods import Attack
from raybd.types.models import Victim

TRAJECTORIES = "trajectories"
"""The folder of the artefacts that hold trajectories; their key is that of the victim."""
Row = dict[str, Any]


class DynamicsWatcher:
    """Keeps a row for each epoch and group, and perhaps the loss of each training image."""

    def __init__(
        self, kept: Kept, dataset: Dataset, poisoned: Poisoned, split: Split, known: bool = True
    ) -> None:
        """Choose the images of the groups.

        `split` is the training set as the training has it. `known`: whether the true labels of
        poison are known.
        """
        self._kept = kept
        self._groups = gather(dataset, poisoned, split, known) if kept.dynamics else []
        self._x_NCHW = torch.cat([group.x_NCHW for group in self._groups]) if self._groups else None
        self._split = split
        self._classes = dataset.num_classes
        self._rows: list[Row] = []
        self._paths: dict[str, list[Tensor]] = {}

    def see(self, epoch: Epoch) -> None:
        """Add the rows of an epoch. What is no classifier of these classes is passed over."""
        if not _classifies(epoch.victim, self._split.x_NCHW[:1], self._classes):
            return
        if self._x_NCHW is not None:
            self._rows += self._rows_of(epoch, self._x_NCHW)
        if self._kept.trajectories:
            # A training of this name may have been one of several: the last one counts.
            if epoch.epoch == 1:
                self._paths.pop(epoch.name, None)
            logits_NK = infer(epoch.victim, self._split.x_NCHW, exact=False)
            self._paths.setdefault(epoch.name, []).append(_path(logits_NK, self._split.y_N))

    def _rows_of(self, epoch: Epoch, x_NCHW: Tensor) -> list[Row]:
        logits_NK, z_ND = _outputs(epoch.victim, x_NCHW)
        sizes = [len(group.x_NCHW) for group in self._groups]
        parts = list(zip(self._groups, logits_NK.split(sizes), z_ND.split(sizes), strict=True))
        about = {
            "training": epoch.name,
            "epoch": epoch.epoch,
            "lr": epoch.lr,
            "seconds": epoch.seconds,
        }
        rows = [{**about, **_learned(group, logits_NK)} for group, logits_NK, _ in parts]
        # Only of a linear head are the gradients known without a backward pass.
        if isinstance(epoch.victim.head, nn.Linear):
            bias = epoch.victim.head.bias is not None
            trained = [(group, *out) for group, *out in parts if group.share is not None]
            whole_KD = torch.stack(
                [
                    (group.share or 0.0) * mean_gradient(logits_NK, z_ND, group.label_N, bias)
                    for group, logits_NK, z_ND in trained
                ]
            ).sum(0)
            for row, (group, logits_NK, z_ND) in zip(rows, parts, strict=True):
                norm_N, cosine_N = alignment(logits_NK, z_ND, group.label_N, whole_KD, bias)
                row |= {"grad_norm": float(norm_N.mean()), "grad_cosine": float(cosine_N.mean())}

        losses = {
            group.name: F.cross_entropy(logits_NK, group.label_N, reduction="none")
            for group, logits_NK, _ in parts
        }
        for row in rows:
            if row["group"] == "poison" and "clean" in losses:
                row["gap_auroc"] = _lower(losses["poison"], losses["clean"])
        return rows

    def table(self) -> pa.Table | None:
        """Return the rows of the dynamics table; None if there are none."""
        if not self._rows:
            return None
        return pa.Table.from_pylist(self._rows, schema=DYNAMICS.remove_metadata())

    def trajectories(self) -> dict[str, Tensor]:
        """Return the paths of the last training: epochs E of training images N; empty if none."""
        if not self._paths:
            return {}
        path_EN3 = torch.stack(list(self._paths.values())[-1])
        correct_NE = path_EN3[..., 2].T.bool()
        return {
            "loss_NE": path_EN3[..., 0].T.contiguous(),
            "margin_NE": path_EN3[..., 1].T.contiguous(),
            "correct_NE": correct_NE.contiguous(),
        }

    def add_to(self, result: Result) -> Result:
        """Return the result of a stage with what was seen."""
        return replace(result, dynamics=self.table(), trajectories=self.trajectories())

    def state_dict(self) -> dict[str, Any]:
        """Return what was seen."""
        return {"rows": self._rows, "paths": self._paths}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what was seen."""
        self._rows = list(state["rows"])
        self._paths = {name: list(parts) for name, parts in state["paths"].items()}


@contextmanager
def watching(
    stage: Stage, dataset: Dataset, poisoned: Poisoned, split: Split
) -> Iterator[DynamicsWatcher]:
    """Look at the victims that are trained inside, as far as that is kept.

    `split` is the training set as it is for the training, or that which it is a part of.
    """
    kept = current().kept
    # Where the poison was there already, nobody knows what its labels were.
    known = not cast(Attack, stage.poison_stage.method.config).reads_flags
    if not kept.dynamics and not kept.trajectories:
        yield DynamicsWatcher(NOTHING, dataset, poisoned, split, known)
        return
    watcher = DynamicsWatcher(kept, dataset, poisoned, split, known)
    with watched_by(watcher):
        yield watcher


def without_poison(poisoned: Poisoned) -> Poisoned:
    """Return the same trigger where the training set is clean, as that of a probe is."""
    # Of each only the rows, so that kinds and shapes stay.
    return replace(
        poisoned,
        index_M=poisoned.index_M[:0],
        x_MCHW=poisoned.x_MCHW[:0],
        y_M=poisoned.y_M[:0],
        role_M=poisoned.role_M[:0],
    )


@torch.no_grad()
def _classifies(victim: Victim, x_1CHW: Tensor, num_classes: int) -> bool:
    """Return whether a victim gives logits of the classes: its head may stand for another one."""
    out = victim.eval()(x_1CHW.to(victim.mean_C.device))
    return isinstance(out, Tensor) and out.shape == (1, num_classes)


def _outputs(victim: Victim, x_NCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits and embeddings, from one pass."""
    width = 0

    def output(x_BCHW: Tensor) -> Tensor:
        nonlocal width
        logits_BK, z_BD = victim(x_BCHW, with_embedding=True)
        width = logits_BK.shape[1]
        return torch.cat([logits_BK, z_BD.flatten(1)], 1)

    out_ND = infer(victim, x_NCHW, output, exact=False)
    return out_ND[:, :width], out_ND[:, width:]


def _learned(group: Group, logits_NK: Tensor) -> Row:
    """Return what is known of a group from the logits."""
    loss_N = F.cross_entropy(logits_NK, group.label_N, reduction="none")
    low, middle, high = loss_N.quantile(torch.tensor([0.1, 0.5, 0.9])).tolist()
    hit_N = logits_NK.argmax(1)
    accuracy = float((hit_N == group.label_N).float().mean())
    true = None if group.true_N is None else float((hit_N == group.true_N).float().mean())
    return {
        "group": group.name,
        "n": len(loss_N),
        "loss_mean": float(loss_N.mean()),
        "loss_q10": low,
        "loss_q50": middle,
        "loss_q90": high,
        "accuracy": accuracy,
        "true_accuracy": true,
        # The label that they carry is the one that the attacker wants.
        "success": accuracy if group.attacked else None,
    }


def _lower(low_N: Tensor, high_N: Tensor) -> float:
    """Return how often one of the first is lower than one of the second; ties count as half."""
    below = low_N[:, None] < high_N[None]
    equal = low_N[:, None] == high_N[None]
    return float(below.double().mean() + equal.double().mean() / 2)


def _path(logits_NK: Tensor, y_N: Tensor) -> Tensor:
    """Return loss, margin and correctness of each image, in 16 bits."""
    loss_N = F.cross_entropy(logits_NK, y_N, reduction="none")
    given_N = logits_NK.gather(1, y_N[:, None])[:, 0]
    other_N = logits_NK.scatter(1, y_N[:, None], float("-inf")).amax(1)
    correct_N = (logits_NK.argmax(1) == y_N).float()
    return torch.stack([loss_N, given_N - other_N, correct_N], 1).half()
