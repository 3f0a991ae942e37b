"""Images in folders: classes, fingerprints, and errors that name the place."""

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from raybd.datasets.digits import Digits
from raybd.datasets.image_folder import ImageFolder
from raybd.types.errors import UserError
from tests.image_files import assert_sound, counts, png, same


@pytest.fixture(scope="module")
def digits_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve training and four test images of each of three digits, with different suffixes."""
    root = tmp_path_factory.mktemp("folder")
    dataset = Digits().load()
    for part, split, number in (("train", dataset.train, 12), ("test", dataset.test, 4)):
        for label, name in enumerate(("zero", "one", "two")):
            folder = root / part / name
            folder.mkdir(parents=True)
            for index, x_CHW in enumerate(split.x_NCHW[split.y_N == label][:number]):
                suffix = ("png", "bmp", "webp", "PNG")[index % 4]
                Image.fromarray(x_CHW[0].numpy()).save(folder / f"{index}.{suffix}", lossless=True)
            (folder / "notes.txt").write_text("not an image")
    return root


def test_image_folder_reads_each_class(digits_folder: Path) -> None:
    dataset = ImageFolder(path=digits_folder, clean=6).load()
    assert_sound(dataset, 32)
    assert dataset.class_names == ("one", "two", "zero")
    assert [counts(part.y_N) for part in (dataset.train, dataset.clean, dataset.test)] == [
        [10] * 3,
        [2] * 3,
        [4] * 3,
    ]
    digits = Digits().load().test
    zeros = digits.x_NCHW[digits.y_N == 0][:4].flatten(1).unique(dim=0)
    assert torch.equal(dataset.test.x_NCHW[dataset.test.y_N == 2].flatten(1).unique(dim=0), zeros)
    assert same(dataset, ImageFolder(path=digits_folder, clean=6).load())


def test_image_folder_fingerprint_is_of_the_content(digits_folder: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(digits_folder, tmp_path / "moved"))
    before = ImageFolder(path=digits_folder).source().fingerprint
    assert ImageFolder(path=moved).source().fingerprint == before
    (moved / "test" / "one" / "0.png").rename(moved / "test" / "one" / "9.png")
    renamed = ImageFolder(path=moved).source().fingerprint
    (moved / "test" / "one" / "9.png").write_bytes(png(3, 32))
    assert len({before, renamed, ImageFolder(path=moved).source().fingerprint}) == 3


def test_image_folder_says_what_is_wrong(digits_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"no images in any folder below it\nLay the images out as train/CLASS"
    ):
        ImageFolder(path=tmp_path).source()
    (tmp_path / "train" / "empty").mkdir(parents=True)
    with pytest.raises(UserError, match="train: no images in any folder"):
        ImageFolder(path=tmp_path).source()
    broken = Path(shutil.copytree(digits_folder, tmp_path / "broken"))
    (broken / "train" / "two" / "0.png").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"train/two/0\.png: not a readable image"):
        ImageFolder(path=broken).load()
    (broken / "test" / "one").rename(broken / "test" / "three")
    with pytest.raises(
        UserError, match=r"test: the class names are .*'three'.*those of the training part"
    ):
        ImageFolder(path=broken).source()
