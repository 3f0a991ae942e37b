"""All faults."""

from tests.mutants import (
    asset,
    attacking,
    defending,
    detecting,
    importing,
    isolating,
    judging,
    keys,
    measuring,
    pruning,
    reading,
    scanners,
    scanning,
    storing,
    telling,
    tuning,
)
from tests.mutants.fault import Fault

FAULTS: tuple[Fault, ...] = (
    *judging.FAULTS,
    *measuring.FAULTS,
    *asset.FAULTS,
    *detecting.FAULTS,
    *defending.FAULTS,
    *pruning.FAULTS,
    *isolating.FAULTS,
    *attacking.FAULTS,
    *keys.FAULTS,
    *importing.FAULTS,
    *storing.FAULTS,
    *telling.FAULTS,
    *reading.FAULTS,
    *scanners.FAULTS,
    *scanning.FAULTS,
    *tuning.FAULTS,
)
