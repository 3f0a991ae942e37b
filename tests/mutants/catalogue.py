"""All faults."""

from tests.mutants import (
    asset,
    attacking,
    clean_label,
    controlling,
    data_attacks,
    defending,
    detecting,
    importing,
    isolating,
    judging,
    keys,
    measuring,
    pruning,
    reading,
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
    *data_attacks.FAULTS,
    *clean_label.FAULTS,
    *controlling.FAULTS,
    *keys.FAULTS,
    *importing.FAULTS,
    *storing.FAULTS,
    *telling.FAULTS,
    *reading.FAULTS,
    *scanning.FAULTS,
    *tuning.FAULTS,
)
