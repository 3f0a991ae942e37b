"""One run under all that a machine may lack: the table is that of a run that lacks nothing."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from raybd.cells.run import run_cell
from raybd.plan.file import parse
from raybd.results.store import Store
from tests.paths import REPO
from tests.tiny_cells import TINY

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(420),
    pytest.mark.skipif(
        os.getuid() != 0 or not shutil.which("setpriv") or not shutil.which("unshare"),
        reason="only root can become another user, and mount a small /dev/shm",
    ),
]
NOBODY = 65_534
NUMBERS = ["clean_accuracy", "attack_success", "auroc", "tpr", "fpr", "defended_attack_success"]
NAMES = ["attack", "defense", "status"]
COMMAND = """
mount -t tmpfs -o size=64m tmpfs /dev/shm
mount -t tmpfs -o ro tmpfs "$3"
ulimit -Sn 64
umask 077
exec setpriv --reuid {uid} --regid {uid} --clear-groups \
    --inh-caps +dac_read_search --ambient-caps +dac_read_search \
    env -i HOME="$3" PATH="$PATH" LANG=C PYTHONPATH={repo} OMP_NUM_THREADS=1 RAY_worker_niceness=0 \
    {python} -m raybd run "$1" --store "$2" --json
"""
"""It may read where the interpreter lies, which can be the folder of root."""
DETECTORS: list[dict[str, Any]] = [
    {"kind": "spectral"},
    {"kind": "tests.methods.misbehaves", "name": "forks", "how": "forks"},
    {"kind": "tests.methods.misbehaves", "name": "prints", "how": "prints"},
]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder of that user, in a path with spaces and letters beyond ASCII."""
    outer = Path(tempfile.mkdtemp(prefix="raybd-test-", dir="/tmp"))
    outer.chmod(0o755)
    place = outer / "mes résultats 結果"
    place.mkdir()
    os.chown(place, NOBODY, NOBODY)
    yield place
    shutil.rmtree(outer)


def table(store: Store) -> pd.DataFrame:
    frame = store.cells()[[*NAMES, *NUMBERS]]
    return frame.sort_values(NAMES[:2], ignore_index=True)


def test_a_user_with_nothing_gets_the_same_table(folder: Path, tmp_path: Path) -> None:
    config = {**TINY, "name": "hard", "detectors": DETECTORS, "removal": False}
    path = folder / "mon expérience.yaml"
    path.write_text(yaml.safe_dump(config))
    command = COMMAND.format(uid=NOBODY, repo=REPO, python=sys.executable)
    home = folder.parent / "home"
    home.mkdir()
    done = subprocess.run(
        ["unshare", "-m", "bash", "-ec", command, "bash", path, folder / "les nôtres", home],
        cwd=folder,
        capture_output=True,
        check=False,
        timeout=400,
    )
    errors = done.stderr.decode()
    assert done.returncode == 0, errors
    assert "Traceback" not in errors
    # 100 MB are in a log of Ray's, and not on the console.
    assert len(errors) < 100_000
    assert len(json.loads(done.stdout)) == 4

    undisturbed = Store(str(tmp_path))
    for cell in parse({**config, "detectors": DETECTORS}).cells():
        if cell.defense_name != "prints":
            run_cell(cell, undisturbed)
    found = table(Store(str(folder / "les nôtres")))
    found = found[found["defense"] != "prints"].reset_index(drop=True)
    pd.testing.assert_frame_equal(found, table(undisturbed))
    # Nobody else reads what a user with such an umask writes.
    assert {path.stat().st_mode & 0o077 for path in (folder / "les nôtres").rglob("*")} == {0}
