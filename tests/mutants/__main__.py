"""Plants each fault and prints which ones the tests notice: python -m tests.mutants.

Exit code 1: fewer than 95 % are noticed. 2: the list does not fit the code, or a named test fails
without any fault.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.mutants.catalogue import FAULTS
from tests.mutants.fault import Fault
from tests.mutants.run import ROOT, broken_before, copied, load_libraries, run_all

LEAST_SHARE = 0.95
"""Share of the faults that the tests have to notice."""


def main() -> int:
    """Run the faults that the command asks for."""
    asked = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    asked.add_argument(
        "--only", nargs="*", default=[""], help="faults whose name or file contains one of these"
    )
    asked.add_argument("--jobs", type=int, default=1, help="faults at a time")
    asked.add_argument("--verbose", action="store_true", help="show what pytest said of survivors")
    asked.add_argument(
        "--no-check", action="store_true", help="do not run the tests without a fault first"
    )
    words = asked.parse_args()
    faults = [
        fault
        for fault in FAULTS
        if any(pattern in f"{fault.name} {fault.file}" for pattern in words.only)
    ]
    try:
        for fault in faults:
            fault.check(ROOT)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2

    load_libraries()
    with tempfile.TemporaryDirectory(prefix="raybd-mutants-") as folder:
        trees = [copied(Path(folder) / f"tree{number}") for number in range(words.jobs)]
        if not words.no_check and (said := broken_before(faults, trees[0])) is not None:
            print(f"a test fails without any fault:\n{said}", file=sys.stderr)
            return 2
        return _table(faults, trees, words.verbose)


def _table(faults: Sequence[Fault], trees: Sequence[Path], verbose: bool) -> int:
    """Print what becomes of each fault; return the exit code."""
    outcomes = []
    for outcome in run_all(faults, trees):
        outcomes.append(outcome)
        fault = outcome.fault
        print(f"{outcome.state:9} {outcome.seconds:5.0f} s  {fault.name}: {fault.what}", flush=True)
        if verbose and not outcome.noticed:
            print(outcome.said, flush=True)

    noticed = sum(outcome.noticed for outcome in outcomes)
    seconds = sum(outcome.seconds for outcome in outcomes)
    print(f"{noticed} of {len(outcomes)} faults noticed, in {seconds:.0f} s of tests")
    if any(outcome.state == "broken" for outcome in outcomes):
        print("pytest could not run the tests of a fault", file=sys.stderr)
        return 2
    return 0 if noticed >= LEAST_SHARE * len(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
