"""Data sets on object storage and on the Hub: read like those of a folder, or refused in words."""

import time
from pathlib import Path

import pytest
import s3fs

from raybd.datasets.image_folder import ImageFolder
from raybd.reading.entry import entry_for
from raybd.types.errors import UserError
from tests.image_files import png


def test_class_folders_in_a_bucket_are_read_and_downloaded_once(
    s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYBD_CACHE", str(tmp_path / "cache"))
    bucket = s3fs.S3FileSystem()
    for value in range(24):
        name = f"{s3_url}/images/train/{'cat' if value % 2 else 'dog'}/{value}.png"
        bucket.pipe(name, png(value))
    url = f"{s3_url}/images"
    assert entry_for(url) == {"kind": "image_folder", "path": url}
    source = ImageFolder(path=url).source()
    assert source.class_names == ("cat", "dog")
    assert len(source.train_y_N) + len(source.test_y_N) == 24
    images = ImageFolder(path=url).load().train
    parity = images.x_NCHW[:, 0, 0, 0] % 2
    assert (parity == (images.y_N == 0)).all()

    copies = list((tmp_path / "cache" / "remote").iterdir())
    assert len(copies) == 1
    bucket.pipe(f"{url}/train/cat/1.png", png(101))
    assert ImageFolder(path=url).source().fingerprint != source.fingerprint
    assert len(list((tmp_path / "cache" / "remote").iterdir())) == 2


def test_a_bucket_without_images_and_a_bucket_that_is_not_there_are_named(
    s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYBD_CACHE", str(tmp_path / "cache"))
    s3fs.S3FileSystem().pipe(f"{s3_url}/texts/a.txt", b"no image")
    for place in (f"{s3_url}/texts", "s3://raybd-no-such-bucket/x"):
        with pytest.raises(UserError, match=place):
            entry_for(place)


def test_the_hub_without_a_network_is_one_clear_error(nowhere: Path) -> None:
    began = time.monotonic()
    with pytest.raises(UserError) as error:
        entry_for("hf://datasets/raybd-test/no-such-data")
    assert error.value.what.startswith("hf://datasets/raybd-test/no-such-data: ")
    assert "huggingface_hub" in error.value.hint
    assert "\n" not in error.value.what
    assert time.monotonic() - began < 60
