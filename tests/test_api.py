"""The public API: its names are known before anything heavy is imported."""

import subprocess
import sys
from pathlib import Path

import raybd
from raybd.plan.file import parse
from tests.tiny_cells import TINY


def test_the_public_functions_are_listed_before_they_are_imported() -> None:
    code = "import sys, raybd; print(dir(raybd)); print('raybd.api' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    listed, imported = done.stdout.splitlines()
    for name in (
        "run",
        "run_cell",
        "scan",
        "scan_model",
        "sweep",
        "load_analysis",
        "load_cells",
        "load_scores",
        "load_trials",
    ):
        assert repr(name) in listed
    # Names that the package needs itself are nobody else's.
    assert "TYPE_CHECKING" not in listed and "'typing'" not in listed
    assert imported == "False"


def test_a_public_function_is_none_of_the_packages_that_it_imports() -> None:
    # A folder raybd/scan would replace the function as soon as somebody imports it.
    code = "import raybd.scanning.scanned, raybd.sweeps.sweep, raybd; raybd.scan, raybd.sweep"
    code += "; assert callable(raybd.scan) and callable(raybd.sweep)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_one_cell_runs_in_this_process_and_without_ray(tmp_path: Path) -> None:
    cell = parse({**TINY, "detectors": []}).cells()[0]
    row = raybd.run_cell(cell, tmp_path)
    assert row["status"] == "ok" and row["cell"] == cell.id
    assert list(raybd.load_cells(tmp_path)["cell"]) == [cell.id]
