"""Fixtures that several test files share."""

import json
import os
import signal

# Before torch is loaded: as many processes as cores run, so each computes with one thread.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.shared_victims import SMALL_CIFAR10, SharedVictims, shared_folder

# A shell script lets its background commands ignore SIGINT, which several tests send.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_BESIDE = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Return the folder with real images as NAME/{train,test}.parquet; skip where there is none."""
    named = os.environ.get("RAYBD_DATA")
    if named:
        return Path(named)
    if _BESIDE.is_dir():
        return _BESIDE
    pytest.skip(f"no real images: set RAYBD_DATA, or put them into {_BESIDE}")


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> SharedVictims:
    """Return the victims and encoders that are trained once for a run of the whole suite."""
    return SharedVictims(shared_folder(tmp_path_factory))


@pytest.fixture(scope="session")
def small_cifar10(data_root: Path) -> dict[str, Any]:
    """Return the entry of the part of CIFAR-10 on which behaviour is tested."""
    folder = data_root / "cifar10"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    return {**SMALL_CIFAR10, "path": str(folder)}


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Leave no data, no cache, and a proxy that nobody listens on: no test downloads anything."""
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("RAYBD_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("RAYBD_CACHE", str(tmp_path / "cache"))
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
        monkeypatch.setenv(name.upper(), "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture(scope="session")
def s3_url() -> Iterator[str]:
    """Start an S3 server in this process and return the URL of a bucket on it."""
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
    # Instances keep the address of the server that they were made for.
    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().mkdir("raybd-tests")
    yield "s3://raybd-tests"
    patch.undo()
    server.stop()
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="session")
def small_clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any, Path]:
    """An architecture in open_clip's registry, a model of it, and the model's weights as a file."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("clip")
    config = {
        "embed_dim": 24,
        "vision_cfg": {
            "image_size": 32,
            "layers": 1,
            "width": 32,
            "head_width": 16,
            "patch_size": 16,
        },
        "text_cfg": {
            "context_length": 12,
            "vocab_size": 49408,
            "width": 16,
            "heads": 2,
            "layers": 1,
        },
    }
    (folder / "raybd-test.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder / "raybd-test.json")
    torch.manual_seed(0)
    model = open_clip.CLIP(**config).eval()
    model.logit_scale.data.fill_(3.0)
    save_file(model.state_dict(), folder / "weights.safetensors")
    return "raybd-test", model, folder / "weights.safetensors"
