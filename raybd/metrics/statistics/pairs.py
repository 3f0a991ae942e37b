"""Two verdicts on the same samples, and many p-values at once.

McNemar 1947, Psychometrika 12, in its exact form. Benjamini and Hochberg 1995, J. Royal Statistical
Society B 57. Holm 1979, Scandinavian J. Statistics 6.
"""

from collections.abc import Sequence

import numpy as np


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the two-sided p of two verdicts, from the samples on which only one of them is right.

    A fair coin decides which of the two it is, if both are equally good.
    """
    from scipy.stats import binomtest

    discordant = only_first + only_second
    return float(binomtest(only_first, discordant).pvalue) if discordant else 1.0


def q_values(p: Sequence[float | None]) -> list[float | None]:
    """Return the q-value of each p-value (Benjamini-Hochberg): all of one displayed table.

    To call all with q <= 5 % a difference is wrong in 5 % of them, on average. None stays None, and
    counts as no test.
    """
    from scipy.stats import false_discovery_control

    known = [value for value in p if value is not None]
    if not known:
        return list(p)
    found = iter(false_discovery_control(known).tolist())
    return [None if value is None else next(found) for value in p]


def holm(p: Sequence[float]) -> list[float]:
    """Return adjusted p-values: whether any of those below 5 % is wrong has a probability of 5 %.

    It holds however the tests depend on each other.
    """
    order = np.argsort(p, kind="stable")
    scaled = np.asarray(p, np.float64)[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty(len(p))
    # A larger p never gets the smaller adjusted value.
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return [float(value) for value in adjusted]
