"""Which classes stand out from the others: what several detectors ask before they look inside."""

from torch import Tensor

NORMAL = 1.4826
"""Standard deviation of a normal distribution, in median absolute deviations."""
LEAST_DEVIATION = 1e-6
"""Lower bound of the median absolute deviation, which is zero where most classes are equal."""
FEWEST_CLASSES = 5
"""Classes below which the median is one of those that it should be compared with."""


def anomaly_index(value_K: Tensor) -> Tensor:
    """Return how many deviations each value lies above the median of all (below: negative).

    The deviation is that of a normal distribution with their median absolute deviation. An outlier
    below the median is none: a class without poison may be as compact as it likes.
    """
    middle_K = value_K.double() - value_K.double().quantile(0.5)
    deviation = middle_K.abs().quantile(0.5).clamp_min(LEAST_DEVIATION)
    return middle_K / (NORMAL * deviation)


def chance_of(inside: int, trusted: int, share: float) -> float:
    """Return the probability that at most `inside` of the trusted images fall into a group.

    The group holds this share of the suspects of the class; without poison, trusted images fall
    into it in proportion. Without trusted images it is 1.
    """
    # Imported late, so that a dry run, which imports this module, does not load SciPy.
    from scipy.stats import binom

    return float(binom.cdf(inside, trusted, share))


def too_few_classes(name: str, classes: int) -> str | None:
    """Return a warning if there are too few classes for an anomaly index."""
    if classes >= FEWEST_CLASSES:
        return None
    return (
        f"{name}: {classes} classes are too few to tell which of them stands out (at least"
        f" {FEWEST_CLASSES})"
    )


def index_facts(label_K: Tensor, index_K: Tensor) -> dict[str, float]:
    """Return the facts `index[k]` of each class."""
    pairs = zip(label_K.tolist(), index_K.tolist(), strict=True)
    return {f"index[{label}]": index for label, index in pairs}
