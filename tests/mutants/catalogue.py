"""All faults."""

from tests.mutants import (
    asset,
    attacking,
    defending,
    detecting,
    judging,
    keys,
    measuring,
    storing,
    tuning,
)
from tests.mutants.fault import Fault

FAULTS: tuple[Fault, ...] = (
    *judging.FAULTS,
    *measuring.FAULTS,
    *asset.FAULTS,
    *detecting.FAULTS,
    *defending.FAULTS,
    *attacking.FAULTS,
    *keys.FAULTS,
    *storing.FAULTS,
    *tuning.FAULTS,
)
