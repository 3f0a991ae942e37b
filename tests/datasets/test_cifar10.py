"""CIFAR-10, found under RAYBD_DATA."""

from pathlib import Path

import pytest

from raybd.datasets.cifar10 import Cifar10
from tests.image_files import assert_sound, counts, same


@pytest.mark.data
def test_cifar10_is_found_under_raybd_data(
    data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYBD_DATA", str(data_root))
    dataset = Cifar10(limit=100, clean=20, test_limit=50).load()
    assert_sound(dataset, 32)
    assert [counts(part.y_N) for part in (dataset.train, dataset.clean, dataset.test)] == [
        [10] * 10,
        [2] * 10,
        [5] * 10,
    ]
    assert same(
        dataset, Cifar10(limit=100, clean=20, test_limit=50, path=data_root / "cifar10").load()
    )
