"""The list of faults for `make mutants` fits the code as it is."""

import pytest

from tests.mutants.catalogue import FAULTS
from tests.mutants.fault import Fault
from tests.mutants.run import ROOT


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: str(fault.name))
def test_a_fault_has_one_place_in_the_code_and_tests(fault: Fault) -> None:
    fault.check(ROOT)


def test_names_are_unique() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) >= 80
