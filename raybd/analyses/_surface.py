"""Loss and accuracy of a victim whose weights are moved along directions, point by point."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from raybd.analyses._sample import in_proportion
from raybd.distributed import group
from raybd.types.methods import AnalysisInput
from raybd.types.models import Victim

if TYPE_CHECKING:
    import pyarrow as pa

Weights = Mapping[str, Tensor]
"""Tensors of a victim by their names in its state."""
AT_ONCE = 500
"""Images that a victim runs over at the same time."""


@dataclass(frozen=True)
class Shown:
    """Images, and the labels that they are measured against: once run, measured several times."""

    x_NCHW: Tensor
    labels: Mapping[str, Tensor]
    """Labels by the name of the group."""


def shown(given: AnalysisInput, images: int, rng: Generator) -> list[Shown]:
    """Return test images, and those with the trigger against the wanted and the true labels."""
    rows = in_proportion(given.test.y_N, images, rng)
    found = [Shown(given.test.x_NCHW[rows], {"clean": given.test.y_N[rows]})]
    pairs = given.pairs
    if len(pairs):
        rows = in_proportion(pairs.y_M, images, rng)
        labels = {"stamped_wanted": pairs.wanted_M[rows], "stamped_true": pairs.y_M[rows]}
        found.append(Shown(pairs.worn_MCHW[rows], labels))
    return found


def surface(
    victim: Victim,
    start: Weights,
    directions: Sequence[Weights],
    place_PA: Tensor,
    images: Sequence[Shown],
) -> Tensor:
    """Return mean loss and accuracy of each group at each point, P x groups x 2, float64.

    A point is `start` plus the directions, each times its coordinate; what a direction does not
    name stays. Normalisation uses its statistics. Workers share the points; the victim is copied.
    """
    device = group.device()
    moved = copy.deepcopy(victim).to(device).eval()
    state = moved.state_dict()
    on_device = [
        Shown(one.x_NCHW.to(device), {name: y_N.to(device) for name, y_N in one.labels.items()})
        for one in images
    ]
    names = set[str]().union(*directions)
    start = {name: start[name].to(device) for name in names}
    steps = [{name: part.to(device) for name, part in one.items()} for one in directions]

    groups = sum(len(one.labels) for one in images)
    mine = group.shard(torch.arange(len(place_PA)))
    told = torch.zeros((len(mine), groups, 2), dtype=torch.float64)
    for row, place in enumerate(mine.tolist()):
        for name in names:
            state[name].copy_(start[name])
            for along, step in zip(place_PA[place].tolist(), steps, strict=True):
                if name in step:
                    state[name].add_(step[name], alpha=along)
        told[row] = torch.stack([part for one in on_device for part in _measured(moved, one)])
    # The collective of a group of GPUs moves no tensors of the CPU.
    return group.gather_rows(told.to(device), len(place_PA)).cpu()


def table(axes: Mapping[str, Tensor], told_PG2: Tensor, images: Sequence[Shown]) -> "pa.Table":
    """Return a row for each point and group: coordinates, group, loss and accuracy."""
    import pyarrow as pa

    names = [name for one in images for name in one.labels]
    columns = {
        name: pa.array(value_P.repeat_interleave(len(names)).tolist(), pa.float32())
        for name, value_P in axes.items()
    }
    return pa.table(
        {
            **columns,
            "group": names * len(told_PG2),
            "loss": pa.array(told_PG2[..., 0].flatten().tolist(), pa.float32()),
            "accuracy": pa.array(told_PG2[..., 1].flatten().tolist(), pa.float32()),
        }
    )


@torch.no_grad()
def _measured(victim: Victim, one: Shown) -> list[Tensor]:
    """Return (mean loss, accuracy) for each group of labels, from one run over the images."""
    logits_NK = torch.cat([victim(x_BCHW) for x_BCHW in one.x_NCHW.split(AT_ONCE)]).double()
    told = []
    for y_N in one.labels.values():
        right = (logits_NK.argmax(1) == y_N).double().mean()
        told.append(torch.stack([F.cross_entropy(logits_NK, y_N), right]))
    return [part.cpu() for part in told]
