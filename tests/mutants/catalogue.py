"""All faults."""

from tests.mutants import (
    asset,
    attacking,
    defending,
    detecting,
    importing,
    judging,
    keys,
    measuring,
    reading,
    scanning,
    storing,
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
    *importing.FAULTS,
    *storing.FAULTS,
    *reading.FAULTS,
    *scanning.FAULTS,
)
