"""STL-10's unlabelled images, fetched with a stand-in for torchvision's download."""

from pathlib import Path
from typing import Any

import pytest

from raybd.datasets.stl10_unlabelled import Stl10Unlabelled


def test_unlabelled_images_have_one_label_whatever_torchvision_says(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision import datasets as published

    def fake(folder: Path, part: str, target_transform: Any, download: bool) -> Any:
        assert download
        size = {"unlabeled": 30, "test": 9}[part]
        return [
            (image, target_transform(None))
            for image, _ in published.FakeData(size, (3, 96, 96), 10)
        ]

    monkeypatch.setattr(published, "STL10", fake)
    dataset = Stl10Unlabelled(size=32, clean=10).load()
    assert dataset.class_names == ("unlabelled",)
    assert [len(part) for part in (dataset.train, dataset.clean, dataset.test)] == [20, 10, 9]
    assert dataset.train.x_NCHW.shape[1:] == (3, 32, 32)
    assert not dataset.train.y_N.any() and not dataset.test.y_N.any()
