"""The public API: its names are known before anything heavy is imported."""

import subprocess
import sys


def test_the_public_functions_are_listed_before_they_are_imported() -> None:
    code = "import sys, raybd; print(dir(raybd)); print('raybd.api' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    listed, imported = done.stdout.splitlines()
    for name in (
        "run",
        "scan",
        "scan_model",
        "sweep",
        "load_analysis",
        "load_cells",
        "load_scores",
        "load_trials",
    ):
        assert repr(name) in listed
    assert imported == "False"


def test_a_public_function_is_none_of_the_packages_that_it_imports() -> None:
    # A folder raybd/scan would replace the function as soon as somebody imports it.
    code = "import raybd.scanning.scanned, raybd.sweeps.sweep, raybd; raybd.scan, raybd.sweep"
    code += "; assert callable(raybd.scan) and callable(raybd.sweep)"
    subprocess.run([sys.executable, "-c", code], check=True)
