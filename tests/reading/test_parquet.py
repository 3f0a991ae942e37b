"""The Parquet layout: rows where they belong, fingerprints, and errors that name the file."""

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from raybd.datasets.parquet import Parquet
from raybd.types.errors import UserError
from tests.image_files import assert_sound, counts, png, write_parquet


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """Ten images of one color each, in two classes."""
    return write_parquet(tmp_path / "tiny", [png(10 * row) for row in range(10)], [0, 1] * 5)


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "size", "side", "classes"),
    [
        ("cifar100_sub", None, 32, 100),
        ("tiny_imagenet_sub", None, 64, 200),
        ("imagenette224_sub", 32, 32, 10),
    ],
)
def test_parquet_reads_png_jpeg_and_greyscale(
    data_root: Path, name: str, size: int | None, side: int, classes: int
) -> None:
    dataset = Parquet(path=data_root / name, size=size, limit=200, clean=200, test_limit=200).load()
    assert_sound(dataset, side)
    assert dataset.num_classes == classes
    for part in (dataset.train, dataset.clean, dataset.test):
        assert counts(part.y_N) == [200 // classes] * classes


@pytest.mark.data
def test_rows_come_in_the_order_asked_for(data_root: Path) -> None:
    source = Parquet(path=data_root / "cifar10").source()
    rows_M = torch.tensor([49_999, 3, 5_000, 4_999, 1_024])
    table = pq.read_table(data_root / "cifar10" / "train.parquet", columns=["img"]).column(0)
    expected = [
        np.array(Image.open(io.BytesIO(table[row]["bytes"].as_py()))) for row in rows_M.tolist()
    ]
    assert torch.equal(
        source.read("train", rows_M), torch.from_numpy(np.stack(expected)).permute(0, 3, 1, 2)
    )


@pytest.mark.data
def test_resizing_smooths(data_root: Path) -> None:
    large = (
        Parquet(path=data_root / "imagenette224_sub")
        .source()
        .read("test", torch.tensor([7]))
        .float()
    )
    small = (
        Parquet(path=data_root / "imagenette224_sub", size=32)
        .source()
        .read("test", torch.tensor([7]))
        .float()
    )
    reference = torch.nn.functional.interpolate(large, (32, 32), mode="bilinear", antialias=True)
    assert (small - reference).abs().max() < 2


def test_class_names_come_from_the_file(tmp_path: Path) -> None:
    folder = write_parquet(
        tmp_path / "a", [png(row) for row in range(4)], [0, 1, 2, 1], names=["cat", "dog", "owl"]
    )
    assert Parquet(path=folder).source().class_names == ("cat", "dog", "owl")


def test_columns_can_have_other_names(tmp_path: Path) -> None:
    folder = write_parquet(
        tmp_path / "a", [png(row) for row in range(4)], [0, 1, 0, 1], image="picture", label="fine"
    )
    dataset = Parquet(path=folder, image_column="picture", label_column="fine", clean=1).load()
    assert len(dataset.train) == 3


def test_every_row_is_read_once_and_where_it_belongs(tiny: Path) -> None:
    source = Parquet(path=tiny).source()
    x_NCHW = source.read("train", torch.arange(9, -1, -1))
    assert x_NCHW[:, 0, 0, 0].tolist() == [90, 80, 70, 60, 50, 40, 30, 20, 10, 0]


def test_fingerprint_is_of_the_content_not_of_the_path(tiny: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(tiny, tmp_path / "elsewhere"))
    other = write_parquet(tmp_path / "other", [png(10 * row + 1) for row in range(10)], [0, 1] * 5)
    first, second, third = (
        Parquet(path=folder).source().fingerprint for folder in (tiny, moved, other)
    )
    assert first == second != third
    (moved / "test.parquet").write_bytes((other / "test.parquet").read_bytes())
    assert Parquet(path=moved).source().fingerprint not in (first, third)


def test_labels_are_read_without_the_images(tmp_path: Path) -> None:
    source = Parquet(path=write_parquet(tmp_path / "a", [b"no image"] * 4, [0, 1, 0, 1])).source()
    assert source.train_y_N.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize(
    "data", [png(1)[:45], b"", None, b"no image at all"], ids=["cut", "empty", "null", "text"]
)
def test_a_broken_image_is_named(tmp_path: Path, data: bytes | None) -> None:
    folder = write_parquet(
        tmp_path / "a", [png(0), png(1), png(2), png(3), data, png(5)], [0, 1] * 3
    )
    with pytest.raises(UserError, match=r"train\.parquet, row 4: not a readable image"):
        Parquet(path=folder).source().read("train", torch.arange(6))


def test_a_broken_large_image_is_named(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (2, 80, 80, 3), dtype=np.uint8)
    buffers = [io.BytesIO(), io.BytesIO()]
    for buffer, image in zip(buffers, noise, strict=True):
        Image.fromarray(image).save(buffer, "PNG")
    whole, cut = buffers[0].getvalue(), buffers[1].getvalue()[:15_000]
    folder = write_parquet(tmp_path / "a", [whole, whole, cut], [0, 1, 0])
    with pytest.raises(UserError, match=r"row 2: not a readable image"):
        Parquet(path=folder).source().read("test", torch.arange(3))


def test_unequal_sizes_need_a_size(tmp_path: Path) -> None:
    folder = write_parquet(
        tmp_path / "a", [png(0, 8), png(1, 9), png(2, 8), png(3, 8)], [0, 1, 0, 1]
    )
    with pytest.raises(
        UserError, match=r"row 1: images of unequal size, 8 x 8 and 9 x 9 pixels\nSet `size`"
    ):
        Parquet(path=folder).source().read("train", torch.arange(4))
    assert Parquet(path=folder, size=8, clean=1).load().train.x_NCHW.shape == (3, 3, 8, 8)


def test_train_and_test_of_unequal_size_need_a_size(tmp_path: Path) -> None:
    folder = write_parquet(tmp_path / "a", [png(0, 8)] * 4, [0, 1, 0, 1])
    other = write_parquet(tmp_path / "b", [png(0, 9)] * 4, [0, 1, 0, 1])
    (other / "test.parquet").replace(folder / "test.parquet")
    with pytest.raises(UserError, match="unequal size, 8 x 8 and 9 x 9"):
        Parquet(path=folder, clean=1).load()


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent: no such file or folder\n.*`path`.*RAYBD_DATA"):
        Parquet(path=tmp_path / "absent").source()


def test_a_missing_file_is_named(tiny: Path) -> None:
    (tiny / "train.parquet").unlink()
    with pytest.raises(UserError, match=r"tiny/train\.parquet: no such file"):
        Parquet(path=tiny).source()


@pytest.mark.parametrize("column", ["img", "label"])
def test_a_missing_column_is_named_among_those_there_are(tmp_path: Path, column: str) -> None:
    folder = write_parquet(
        tmp_path / "a", [png(0)] * 2, [0, 1], **{"image" if column == "img" else "label": "other"}
    )
    with pytest.raises(
        UserError, match=rf"train\.parquet: no column '{column}' among .*other.*\n.*{column[:2]}"
    ):
        Parquet(path=folder, image_column="img").source()


def test_a_column_without_images_is_an_error(tiny: Path) -> None:
    with pytest.raises(
        UserError, match=r"column 'label' holds int64, not images\n.*struct\(bytes, path\)"
    ):
        Parquet(path=tiny, image_column="label").source()


@pytest.mark.parametrize("kept", [0.5, 0.0])
def test_a_truncated_file_is_named(tiny: Path, kept: float) -> None:
    file = tiny / "train.parquet"
    file.write_bytes(file.read_bytes()[: int(kept * file.stat().st_size)])
    with pytest.raises(UserError, match=r"train\.parquet: not a whole Parquet file"):
        Parquet(path=tiny).source()


def test_a_file_of_another_kind_is_named(tiny: Path) -> None:
    (tiny / "test.parquet").write_text("img,label\n" * 100)
    with pytest.raises(UserError, match=r"test\.parquet: not a whole Parquet file"):
        Parquet(path=tiny).source()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, -1], "holds -1 to 0"),
        ([0.0, 1.0], "holds double"),
        ([0, None], "1 nulls"),
        ([0, 2], "holds 0 to 2 for 2 class names"),
    ],
)
def test_labels_that_are_not_classes_are_an_error(
    tmp_path: Path, labels: list[Any], message: str
) -> None:
    names = ["cat", "dog"] if 2 in labels else None
    folder = write_parquet(tmp_path / "a", [png(0)] * 2, labels, names=names)
    with pytest.raises(
        UserError,
        match=rf"train\.parquet: column 'label' {'.*' + message}\nLabels are integers from 0",
    ):
        Parquet(path=folder).source()


def test_a_file_without_rows_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="column 'label' holds no rows"):
        Parquet(path=write_parquet(tmp_path / "a", [], pa.array([], pa.int64()))).source()
