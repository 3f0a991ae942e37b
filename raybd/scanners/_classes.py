"""What the scanners share that compare the classes of a classifier."""

import torch
from torch import Tensor

from raybd.training.inference import infer
from raybd.types.errors import Infeasible
from raybd.types.models import Victim

NORMAL = 1.4826
"""Standard deviation of a normal distribution, in median absolute deviations."""
SHOWN = 10
"""Classes that are shown as pictures, the most suspicious ones."""


def too_few(kind: str, num_classes: int, least: int) -> str | None:
    """Return why a scanner cannot compare so few classes, if so."""
    if num_classes >= least:
        return None
    return (
        f"{kind} compares classes with their median, and {num_classes} are too few "
        f"(least_classes: {least})"
    )


def count_classes(kind: str, victim: Victim, x_1CHW: Tensor, least: int) -> int:
    """Return the number of classes. Raises Infeasible for too few of them, or without a head."""
    if victim.head is None:
        raise Infeasible(f"{kind} needs a classifier: an encoder has no classes")
    num_classes = infer(victim, x_1CHW).shape[1]
    if reason := too_few(kind, num_classes, least):
        raise Infeasible(reason)
    return num_classes


def anomaly_index(value_K: Tensor, least_deviation: float) -> Tensor:
    """Return by how many deviations each value lies below the median of all.

    The deviation is estimated from the median absolute deviation, or from `least_deviation` times
    the median where that is larger. The negative of it is how far a value lies above the median.
    """
    # torch's own median of an even number is the lower of the two in the middle.
    median = value_K.quantile(0.5)
    deviation = (value_K - median).abs().quantile(0.5)
    # Where even the median is zero, all that differs from it has an index far from zero.
    floor = (least_deviation * median.abs()).clamp_min(torch.finfo(value_K.dtype).eps)
    return (median - value_K) / (NORMAL * torch.maximum(deviation, floor))


def class_name(k: int, flagged: bool) -> str:
    """Return what the picture of a class is called."""
    return f"class {k}{', flagged' if flagged else ''}"
