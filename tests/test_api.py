"""The public API: its names are known before anything heavy is imported."""

import subprocess
import sys


def test_the_public_functions_are_listed_before_they_are_imported() -> None:
    code = "import sys, raybd; print(dir(raybd)); print('raybd.api' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    listed, imported = done.stdout.splitlines()
    for name in ("run", "sweep", "load_analysis", "load_cells", "load_scores", "load_trials"):
        assert repr(name) in listed
    assert imported == "False"
