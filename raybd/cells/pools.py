"""What a detector scores, and what it is told that it may trust."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from raybd.cells.data import load_data
from raybd.cells.stage import random_stream
from raybd.metrics import classification
from raybd.registry import Method
from raybd.training import inference
from raybd.types.data import CLEAN, POISON, Dataset, Poisoned, Split
from raybd.types.errors import UserError
from raybd.types.models import Victim


@dataclass(frozen=True)
class Pool:
    """What a detector scores, and, for the stages alone, the truth about it."""

    suspects: Split
    index_N: Tensor
    true_y_N: Tensor
    role_N: Tensor

    def shuffled(self, order: Tensor) -> "Pool":
        """Return the same in another order: row i is the former row order[i]."""
        return Pool(
            self.suspects.select(order),
            self.index_N[order],
            self.true_y_N[order],
            self.role_N[order],
        )


def training_pool(dataset: Dataset, poisoned: Poisoned) -> Pool:
    """Return the training set as the victim saw it."""
    n = len(dataset.train)
    suspects = poisoned.over(dataset.train)
    return Pool(suspects, torch.arange(n), dataset.train.y_N, poisoned.role_N(n))


def test_pool(victim: Victim, dataset: Dataset, poisoned: Poisoned) -> Pool:
    """Return all test images, clean, followed by those that count, with the trigger.

    The suspects' labels are the victim's predictions.
    """
    test = dataset.test
    # An image of the wanted class would get that label without a backdoor, too.
    counted = torch.nonzero(poisoned.counted(test)).flatten()
    x_NCHW = test.x_NCHW
    if len(counted):
        worn_MCHW = poisoned.with_trigger(
            test.x_NCHW[counted], test.y_N[counted], dataset.num_classes
        )
        x_NCHW = torch.cat([test.x_NCHW, worn_MCHW])

    index_N = torch.cat([torch.arange(len(test)), counted])
    role_N = torch.full((len(index_N),), CLEAN, dtype=torch.int8)
    role_N[len(test) :] = POISON
    # The defender of a stream has no true labels.
    predicted_N = classification.predictions(inference.infer(victim, x_NCHW))
    return Pool(Split(x_NCHW, predicted_N), index_N, test.y_N[index_N], role_N)


def trusted_images(method: Method, seed: int, dataset: Dataset, poisoned: Poisoned) -> Split:
    """Return what a detector is told to trust: the clean part, unless the entry says otherwise.

    Raises UserError if the trusted images have another shape than those of the data set.
    """
    asked = method.trusted
    if asked is None:
        return dataset.clean

    split = dataset.clean
    if asked.dataset is not None:
        assert asked.data is not None  # the plan has opened it
        split = load_data(asked.dataset, asked.data).train
    if split.x_NCHW.shape[1:] != dataset.train.x_NCHW.shape[1:]:
        raise UserError(
            f"{method.name}: its trusted images have the shape {tuple(split.x_NCHW.shape[1:])}, "
            f"the data set has {tuple(dataset.train.x_NCHW.shape[1:])}",
            "Give the trusted data set the same `size`.",
            exit_code=1,
        )

    # Some of the trusted images wear the trigger: the defender was deceived.
    order = torch.randperm(len(split), generator=random_stream("trusted", seed))
    # The beginning of one order: a smaller share is a part of a larger one.
    rows = order[: round(asked.poisoned * len(split))]
    if not len(rows):
        return split
    # The images may be shared with other processes, read-only.
    x_NCHW = split.x_NCHW.clone()
    x_NCHW[rows] = poisoned.with_trigger(split.x_NCHW[rows], split.y_N[rows], dataset.num_classes)
    return replace(split, x_NCHW=x_NCHW)
