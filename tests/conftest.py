"""What several test files share."""

import os
from pathlib import Path

import pytest

_BESIDE = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder with real images as NAME/{train,test}.parquet; tests that need it are skipped where there is none."""
    named = os.environ.get("RAYBD_DATA")
    if named:
        return Path(named)
    if _BESIDE.is_dir():
        return _BESIDE
    pytest.skip(f"no real images: set RAYBD_DATA, or put them into {_BESIDE}")
