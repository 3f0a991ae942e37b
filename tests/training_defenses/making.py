"""CBD on a hundred digits."""

from functools import cache

import torch
from torch import Tensor

from raybd.datasets.digits import Digits
from raybd.networks.small_cnn import SmallCnn
from raybd.training.models import new_victim
from raybd.training.runtime import Runtime, running
from raybd.training.shortcut import losses
from raybd.training_defenses.cbd import CBD
from raybd.training_defenses.cbd.second_network import IndependentObjective
from raybd.types.data import Split
from raybd.types.models import Victim
from raybd.types.verdicts import Defended

TINY = CBD(
    first_steps=10,
    first_lr=0.05,
    epochs=2,
    batch_size=33,
    lr=0.05,
    schedule="constant",
    snapshots=2,
    augment="flip",
    precision="fp32",
)


NONE = Split(torch.empty(0), torch.empty(0))
"""No trusted images."""


def seeded(seed: int) -> torch.Generator:
    """Return a stream of random numbers."""
    return torch.Generator().manual_seed(seed)


@cache
def digits() -> Split:
    """Return a hundred digits with a patch on the first ten."""
    train = Digits(size=16, limit=100, clean=10).load().train
    x_NCHW, y_N = train.x_NCHW.clone(), train.y_N.clone()
    x_NCHW[:10, :, -3:, -3:], y_N[:10] = 255, 0
    return Split(x_NCHW, y_N)


def unequal_digits() -> tuple[Split, Split, Split]:
    """Return digits of 16 pixels in classes of 90 down to 12 images, trusted ones, test images."""
    dataset = Digits(size=16, clean=0.1).load()
    train = dataset.train
    rows = [
        torch.nonzero(train.y_N == label).flatten()[: round(90 * (12 / 90) ** (label / 9))]
        for label in range(10)
    ]
    return train.select(torch.cat(rows)), dataset.clean, dataset.test


def defend(cbd: CBD, runtime: Runtime | None = None) -> Defended:
    """Train on the digits."""
    with running(runtime or Runtime()):
        return cbd.defend(digits(), 10, SmallCnn(width=8), NONE, seeded(3))


def independent(
    cbd: CBD, first_loss_N: Tensor | None = None
) -> tuple[IndependentObjective, Victim]:
    """Return the second objective on an untrained first network, and an untrained second one."""
    first, second = (new_victim(digits(), 10, SmallCnn(width=8), seeded(k)) for k in (1, 2))
    first_loss_N = losses(first, digits()) if first_loss_N is None else first_loss_N
    return IndependentObjective(cbd, first, digits(), first_loss_N, 10, seed=5), second
