"""The interval of a share: k of n.

Wilson 1927, J. American Statistical Association 22.
"""

from math import sqrt

from raybd.metrics.statistics.estimate import LEVEL, Estimate


def wilson(hits: float, n: int, level: float = LEVEL) -> Estimate:
    """Return the share of hits among n samples, with Wilson's interval, which lies in [0, 1].

    Raises ValueError if there are no samples, or more hits than samples.
    """
    from scipy.special import ndtri

    if not 0 <= hits <= n or n == 0:
        raise ValueError(f"{hits} of {n} is no share")
    share = hits / n
    z = float(ndtri((1 + level) / 2))
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    # At the ends the formula is exact, and only rounding is not.
    low = 0.0 if hits == 0 else max(0.0, middle - half)
    high = 1.0 if hits == n else min(1.0, middle + half)
    return Estimate(share, low, high, n)
