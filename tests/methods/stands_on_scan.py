"""A repair that stands on a scan of the scanner that measures the weights."""

import copy
from collections.abc import Mapping
from typing import ClassVar

from torch import Generator, Tensor

from raybd.types.data import Split
from raybd.types.methods import ScannedRepair
from raybd.types.models import Victim
from raybd.types.verdicts import Defended


class StandsOnScan(ScannedRepair):
    """Changes nothing, and says what it was given."""

    scanner: ClassVar[str] = "tests.methods.scans"

    def repair_with(
        self,
        found: Mapping[str, Tensor],
        victim: Victim,
        suspects: Split,
        clean: Split,
        rng: Generator,
    ) -> Defended:
        """Return a copy."""
        facts = {name: float(tensor) for name, tensor in found.items()}
        return Defended(copy.deepcopy(victim), warning="it changes nothing", facts=facts)
