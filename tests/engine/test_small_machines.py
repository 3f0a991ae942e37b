"""Machines with few open files and little shared memory."""

import resource
import subprocess
import sys

import pytest
from ray._private import ray_constants

from raybd.engine.cluster.connect import (
    MIN_OBJECT_STORE_BYTES,
    MIN_OPEN_FILES,
    check_open_files,
    object_store_bytes,
)
from tests.paths import REPO

GIB = 2**30


def test_a_small_shared_memory_gives_the_smallest_object_store() -> None:
    assert object_store_bytes(64 * GIB, 32 * GIB) == 16 * GIB
    assert object_store_bytes(64 * GIB, 4 * GIB) == 2 * GIB
    assert object_store_bytes(64 * GIB, 64 * 2**20) == MIN_OBJECT_STORE_BYTES
    assert MIN_OBJECT_STORE_BYTES == ray_constants.OBJECT_STORE_MINIMUM_MEMORY_BYTES


def test_this_machine_allows_enough_files() -> None:
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] >= MIN_OPEN_FILES
    check_open_files()


@pytest.mark.slow
def test_too_few_open_files_are_one_line_and_exit_code_3(tmp_path: object) -> None:
    command = (
        f"ulimit -n 64; exec {sys.executable} -m raybd run configs/quickstart.yaml "
        f"--store '{tmp_path}/results'"
    )
    done = subprocess.run(
        ["bash", "-c", command], cwd=REPO, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 3, done.stderr
    lines = done.stderr.splitlines()
    assert "error: at most 64 files may be open here; Ray needs 512" in lines
    assert "Traceback" not in done.stderr
