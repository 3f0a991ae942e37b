"""Data sets that are found by their name, or say where they were looked for."""

import time
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch

from raybd.datasets.cifar10 import Cifar10
from raybd.datasets.svhn import Svhn
from raybd.datasets.tiny_imagenet import TinyImagenet
from raybd.reading.write_parquet import write_parquet
from raybd.types.errors import UserError
from tests import image_files as images


def test_without_data_or_network_the_error_says_where_it_looked(nowhere: Path) -> None:
    began = time.monotonic()
    with pytest.raises(UserError) as caught:
        Svhn().source()
    assert time.monotonic() - began < 30
    assert caught.value.what.startswith("svhn: not found (looked at ")
    assert str(nowhere / "data" / "svhn") in caught.value.what
    assert str(nowhere / "cache" / "svhn") in caught.value.what
    assert "the download failed" in caught.value.what
    assert "RAYBD_DATA" in caught.value.hint
    assert list((nowhere / "cache").iterdir()) == []


def test_tiny_imagenet_can_not_be_downloaded(nowhere: Path) -> None:
    with pytest.raises(
        UserError,
        match=r"tiny_imagenet: .*can't be downloaded automatically\nPut train\.parquet and test",
    ):
        TinyImagenet().source()


def test_a_folder_without_its_files_is_not_downloaded_over(nowhere: Path) -> None:
    (nowhere / "data" / "cifar10").mkdir()
    with pytest.raises(UserError, match=r"data/cifar10/train\.parquet: no such file"):
        Cifar10().source()


def test_what_torchvision_downloads_is_kept_without_loss(nowhere: Path) -> None:
    from torchvision.datasets import FakeData

    train, test = (
        FakeData(30, (3, 32, 32), 3, random_offset=0),
        FakeData(9, (3, 32, 32), 3, random_offset=100),
    )
    write_parquet(train, test, ["a", "b", "c"], nowhere / "cache" / "svhn")
    source = Svhn(size=None).source()
    assert source.class_names == ("a", "b", "c")
    assert source.test_y_N.tolist() == [int(label) for _, label in test]
    expected = np.stack([np.array(image) for image, _ in test])
    assert torch.equal(
        source.read("test", torch.arange(9)), torch.from_numpy(expected).permute(0, 3, 1, 2)
    )


def test_the_content_hash_of_a_named_data_set_is_that_of_older_stores(tmp_path: Path) -> None:
    folder = images.write_parquet(tmp_path, [images.png(row) for row in range(4)], [0, 1, 0, 1])
    # By hand: the names of the parts and the hashes of their files, sorted.
    lines = [
        f"{part}\0{sha256((folder / f'{part}.parquet').read_bytes()).hexdigest()}\n"
        for part in ("test", "train")
    ]
    expected = sha256("".join(lines).encode()).hexdigest()
    assert Svhn(path=folder).source().fingerprint == expected
