"""All faults."""

from tests.mutants import (
    asset,
    attacking,
    defending,
    detecting,
    isolating,
    judging,
    keys,
    measuring,
    storing,
)
from tests.mutants.fault import Fault

FAULTS: tuple[Fault, ...] = (
    *judging.FAULTS,
    *measuring.FAULTS,
    *asset.FAULTS,
    *detecting.FAULTS,
    *defending.FAULTS,
    *isolating.FAULTS,
    *attacking.FAULTS,
    *keys.FAULTS,
    *storing.FAULTS,
)
