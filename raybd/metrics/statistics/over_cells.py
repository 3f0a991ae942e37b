"""A measure of the cells of one row, which differ in their seed alone, with its interval."""

from collections.abc import Mapping, Sequence
from typing import Any

from raybd.metrics.catalogue import SHARES
from raybd.metrics.measure import Measure
from raybd.metrics.statistics.estimate import Estimate
from raybd.metrics.statistics.seeds import over_seeds, share_over_seeds

Row = Mapping[str, Any]


def estimate(rows: Sequence[Row], measure: Measure) -> Estimate | None:
    """Return the mean over the rows that have the number, with its 95 % interval.

    Over several seeds: that of their spread, and of the samples that a share counts, if their
    number is known. Of one seed: that of its samples, if there is one. `n` counts the seeds. None:
    no row has the number.
    """
    known = [row for row in rows if row.get(measure.name) is not None]
    if not known:
        return None
    values = [float(row[measure.name]) for row in known]
    samples = _fewest(known, measure)
    if samples:
        return share_over_seeds(values, samples)
    if len(values) == 1 and measure.ends is not None:
        low, high = (known[0].get(end) for end in measure.ends)
        return Estimate(values[0], low, high, 1)
    found = over_seeds(values)
    return found.within(0.0, 1.0) if measure.name in SHARES else found


def _fewest(rows: Sequence[Row], measure: Measure) -> int:
    """Return the number of samples that a share counts in each row; the fewest; 0: not known."""
    if measure.among is None:
        return 0
    # Rows of older stores do not tell.
    return min(int(row.get(measure.among) or 0) for row in rows)
