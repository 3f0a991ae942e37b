"""A driver that is killed with its store on object storage."""

import os
import signal
import time
from pathlib import Path

import pandas as pd
import pytest

from raybd.cells.run import run_cell
from raybd.plan.file import parse
from raybd.results.store import Store
from tests.engine.test_faults import LITTLE
from tests.engine.test_grid import check_whole, run, start

pytestmark = [pytest.mark.ray, pytest.mark.timeout(420)]
NUMBERS = ["attack", "defense", "clean_accuracy", "attack_success", "auroc", "tpr", "fpr"]


def table(store: Store) -> pd.DataFrame:
    return store.cells()[NUMBERS].sort_values(NUMBERS[:2], ignore_index=True)


def test_a_killed_driver_loses_nothing_on_object_storage(tmp_path: Path, s3_url: str) -> None:
    config = {**LITTLE, "attacks": [{"kind": "none"}, {"kind": "badnets"}]}
    config |= {"detectors": [{"kind": "spectral"}, {"kind": "strip"}]}
    url = f"{s3_url}/killed"
    process = start(config, tmp_path, "--store", url)
    store = Store(url)
    deadline = time.monotonic() + 200
    while not store.files("artifacts/victim/*/manifest.json"):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.2)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert len(store.files("cells/*.parquet")) < 6
    time.sleep(3)  # the cluster of the dead driver stops by itself

    code, _, err = run(config, tmp_path, "--store", url)
    assert code == 0, err
    check_whole(store, 6)
    undisturbed = Store(str(tmp_path / "undisturbed"))
    for cell in parse(config).cells():
        run_cell(cell, undisturbed)
    pd.testing.assert_frame_equal(table(store), table(undisturbed))
