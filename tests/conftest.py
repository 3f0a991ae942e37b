"""What several test files share."""

import os

if (
    "PYTEST_XDIST_WORKER" in os.environ
):  # before torch is loaded: as many processes as cores, so one thread in each
    os.environ["OMP_NUM_THREADS"] = "1"

from collections.abc import Iterator
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


@pytest.fixture(scope="session")
def s3_url() -> Iterator[str]:
    """A bucket on an S3 server of this process."""
    import s3fs
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    patch = pytest.MonkeyPatch()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        patch.setenv(name, value)
    s3fs.S3FileSystem().mkdir("raybd-tests")
    yield "s3://raybd-tests"
    patch.undo()
    server.stop()
