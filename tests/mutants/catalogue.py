"""All faults."""

from tests.mutants import attacking, defending, detecting, judging, storing
from tests.mutants.fault import Fault

FAULTS: tuple[Fault, ...] = (
    *judging.FAULTS,
    *detecting.FAULTS,
    *defending.FAULTS,
    *attacking.FAULTS,
    *storing.FAULTS,
)
