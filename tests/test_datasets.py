"""Data sets: how they are found, read and divided, and what they say when they can't be."""

import io
import json
import pickle
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError
from torch import Tensor

from raybd import registry
from raybd.reading.images import Images
from raybd.reading.split import quotas
from raybd.reading.write_parquet import store
from raybd.datasets.cifar10 import Cifar10
from raybd.datasets.digits import Digits
from raybd.datasets.image_folder import ImageFolder
from raybd.datasets.parquet import Parquet
from raybd.datasets.stl10_unlabelled import Stl10Unlabelled
from raybd.datasets.svhn import Svhn
from raybd.datasets.tiny_imagenet import TinyImagenet
from raybd.types.data import Dataset, Pool, Source
from raybd.types.errors import UserError


class Synthetic(Images):
    """Any labels; each image is its row number."""

    train: tuple[int, ...]
    """Labels of the training part."""
    test: tuple[int, ...] = (0, 1, 2) * 10
    """Labels of the test part."""

    def source(self) -> Source:
        names = tuple(str(label) for label in range(1 + max(self.train + self.test)))
        return Source(names, torch.tensor(self.train), torch.tensor(self.test), _row_numbers, "")


def _row_numbers(pool: Pool, rows_M: Tensor) -> Tensor:
    return rows_M.view(-1, 1, 1, 1).expand(-1, 3, 2, 2).to(torch.uint8)


def png(value: int, side: int = 8) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((side, side, 3), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def write_parquet(
    folder: Path,
    images: list[Any],
    labels: list[Any],
    *,
    image: str = "img",
    label: str = "label",
    names: Any = None,
) -> Path:
    """The same rows as training and as test part, in row groups of three."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = pa.array(
        [{"bytes": data, "path": None} for data in images],
        pa.struct({"bytes": pa.binary(), "path": "str"}),
    )
    table = pa.table({image: rows, label: labels})
    if names is not None:
        features = {"info": {"features": {label: {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    for part in ("train", "test"):
        pq.write_table(table, folder / f"{part}.parquet", row_group_size=3)
    return folder


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """Ten images of one color each, in two classes."""
    return write_parquet(tmp_path / "tiny", [png(10 * row) for row in range(10)], [0, 1] * 5)


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No data, no cache, and a proxy that nobody listens on: no test downloads anything."""
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("RAYBD_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("RAYBD_CACHE", str(tmp_path / "cache"))
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
        monkeypatch.setenv(name.upper(), "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def counts(y_N: Tensor) -> list[int]:
    return torch.bincount(y_N).tolist()


def same(one: Dataset, other: Dataset) -> bool:
    return all(
        torch.equal(getattr(one, part).x_NCHW, getattr(other, part).x_NCHW)
        and torch.equal(getattr(one, part).y_N, getattr(other, part).y_N)
        for part in ("train", "clean", "test")
    )


def assert_sound(dataset: Dataset, side: int) -> None:
    for part in (dataset.train, dataset.clean, dataset.test):
        assert part.x_NCHW.dtype == torch.uint8
        assert part.y_N.dtype == torch.int64
        assert part.x_NCHW.shape == (len(part), 3, side, side)
        assert part.x_NCHW.is_contiguous()
        assert 0 <= int(part.y_N.min()) <= int(part.y_N.max()) < dataset.num_classes
        assert part.x_NCHW.float().std() > 10


# --- the split -------------------------------------------------------------------------------------------------------

labels_of_many = st.lists(st.integers(0, 4), min_size=20, max_size=200).map(
    lambda y: (0, 1, 2, 3, 4, *y)
)


@settings(max_examples=60, deadline=None)
@given(train=labels_of_many, seed=st.integers(0, 5), data=st.data())
def test_parts_are_disjoint_exact_and_as_even_as_the_labels_allow(
    train: tuple[int, ...], seed: int, data: st.DataObject
) -> None:
    n = len(train)
    clean = data.draw(st.integers(1, n - 5))
    limit = data.draw(st.one_of(st.none(), st.integers(1, n)))
    config = Synthetic(train=train, clean=clean, limit=limit, split_seed=seed, test_limit=10)
    source = config.source()
    rows = {name: rows_M for name, (_, rows_M) in config.split(source).items()}

    assert len(rows["clean"]) == clean
    assert len(rows["train"]) == min(limit or n, n - clean)
    assert len(rows["test"]) == len(rows["test"].unique()) == 10
    both = torch.cat([rows["train"], rows["clean"]])
    assert len(both.unique()) == len(both)
    for name, available in (("clean", source.train_y_N), ("test", source.test_y_N)):
        y_N = (source.test_y_N if name == "test" else source.train_y_N)[rows[name]]
        given_K = torch.bincount(y_N, minlength=5)
        room_K = torch.bincount(available, minlength=5) - int(name == "clean")
        assert (given_K[given_K < room_K] >= given_K.max() - 1).all()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=8), st.data())
def test_quotas_add_up_and_a_short_class_gives_all_it_has(
    available: list[int], data: st.DataObject
) -> None:
    count = data.draw(st.integers(0, sum(available)))
    available_K = torch.tensor(available)
    quota_K = quotas(available_K, count, torch.arange(len(available)))
    assert int(quota_K.sum()) == count
    assert (quota_K <= available_K).all()
    assert (quota_K[quota_K < available_K] >= quota_K.max() - 1).all()


def test_the_remainder_goes_to_the_favoured_classes() -> None:
    assert quotas(torch.tensor([5, 5, 1, 5]), 9, torch.tensor([3, 2, 1, 0])).tolist() == [
        2,
        3,
        1,
        3,
    ]


def test_split_depends_on_the_seed_alone() -> None:
    def rows(seed: int) -> list[list[int]]:
        config = Synthetic(train=(0, 1, 2) * 30, clean=9, limit=30, test_limit=9, split_seed=seed)
        return [rows_M.tolist() for _, rows_M in config.split(config.source()).values()]

    assert rows(0) == rows(0)
    assert all(one != other for one, other in zip(rows(0), rows(1), strict=True))


def test_a_larger_limit_keeps_the_images_of_a_smaller_one() -> None:
    def train(limit: int) -> set[int]:
        config = Synthetic(train=(0, 1, 2) * 30, clean=9, limit=limit)
        return set(config.split(config.source())["train"][1].tolist())

    assert train(12) < train(31) < train(60)


def test_clean_comes_on_top_of_the_limit() -> None:
    config = Synthetic(train=(0, 1) * 50, clean=0.1, limit=40)
    parts = config.split(config.source())
    assert [len(parts[name][1]) for name in ("train", "clean")] == [40, 4]
    assert parts["clean"][0] == parts["train"][0] == "train"
    assert parts["test"][0] == "test"


def test_every_class_keeps_an_image_for_training() -> None:
    config = Synthetic(train=(0,) * 50 + (1,) * 3, test=(0, 1), clean=20)
    assert counts(config.load().clean.y_N) == [18, 2]
    assert counts(config.load().train.y_N) == [32, 1]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"limit": 91}, "limit: 91 of 90 training images"),
        ({"clean": 88}, "clean: 88 of 90 training images"),
        ({"test_limit": 31}, "test_limit: 31 of 30 test images"),
    ],
)
def test_more_images_than_there_are_is_an_error(fields: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Synthetic(train=(0, 1, 2) * 30, **fields).load()


@pytest.mark.parametrize(
    "fields", [{"clean": 0}, {"clean": 1.5}, {"limit": 0}, {"size": 0}, {"unknown": 1}]
)
def test_fields_have_bounds(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Digits(**fields)


# --- every file of the role ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", registry.names("datasets"))
def test_every_data_set_has_the_shared_fields_and_hides_its_path(kind: str) -> None:
    method = registry.method_class("datasets", kind)
    assert issubclass(method, Images)
    assert registry.summary("datasets", kind)
    path = {"path": "/some/where"} if "path" in method.model_fields else {}
    config = method(**path)
    assert "path" not in config.model_dump(mode="json")
    assert pickle.loads(pickle.dumps(config)) == config
    assert isinstance(hash(config), int)
    assert all(field.description for field in method.model_fields.values())


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        ("digits", 32),
        ("cifar10", None),
        ("gtsrb", 32),
        ("svhn", 32),
        ("tiny_imagenet", None),
        ("imagenette", 160),
    ],
)
def test_default_sizes(kind: str, size: int | None) -> None:
    assert registry.method_class("datasets", kind)().model_dump()["size"] == size


# --- digits ----------------------------------------------------------------------------------------------------------


def test_digits_are_whole_disjoint_and_balanced() -> None:
    dataset = Digits().load()
    assert_sound(dataset, 32)
    assert dataset.class_names == tuple("0123456789")
    assert [len(part) for part in (dataset.train, dataset.clean, dataset.test)] == [1365, 72, 360]
    assert counts(dataset.test.y_N) == [36] * 10
    assert set(counts(dataset.clean.y_N)) == {7, 8}
    images = torch.cat([part.x_NCHW for part in (dataset.train, dataset.clean, dataset.test)])
    assert len(images.flatten(1).unique(dim=0)) == 1797


def test_digits_keep_what_they_are_told() -> None:
    dataset = Digits(limit=500, clean=100, test_limit=50).load()
    assert counts(dataset.train.y_N) == [50] * 10
    assert counts(dataset.clean.y_N) == [10] * 10
    assert counts(dataset.test.y_N) == [5] * 10
    assert same(dataset, Digits(limit=500, clean=100, test_limit=50).load())
    assert not same(dataset, Digits(limit=500, clean=100, test_limit=50, split_seed=1).load())


def test_digits_have_one_test_part_whatever_the_seed() -> None:
    one, other = (Digits(split_seed=seed).load().test.x_NCHW.flatten(1) for seed in (0, 1))
    assert not torch.equal(one, other)
    assert torch.equal(one.unique(dim=0), other.unique(dim=0))


def test_digits_are_stretched_to_the_whole_range() -> None:
    from sklearn.datasets import load_digits

    x_NCHW = Digits(size=None).source().read("test", torch.arange(360))
    assert x_NCHW.shape == (360, 3, 8, 8)
    assert set(x_NCHW.unique().tolist()) <= {round(value * 255 / 16) for value in range(17)}
    stretched = {
        np.rint(image * 255 / 16).astype(np.uint8).tobytes() for image in load_digits().images
    }
    assert {image[0].numpy().tobytes() for image in x_NCHW} <= stretched


def test_a_source_survives_pickling() -> None:
    source = Digits().source()
    again = pickle.loads(pickle.dumps(source))
    assert torch.equal(
        again.read("train", torch.tensor([5, 3])), source.read("train", torch.tensor([5, 3]))
    )


# --- real images -----------------------------------------------------------------------------------------------------


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


# --- the Parquet layout ----------------------------------------------------------------------------------------------


def test_class_names_come_from_the_file(tmp_path: Path) -> None:
    folder = write_parquet(
        tmp_path / "a", [png(row) for row in range(4)], [0, 1, 0, 1], names=["cat", "dog", "owl"]
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
    with pytest.raises(
        UserError, match=r"absent/train\.parquet: no such file\n.*`path`.*RAYBD_DATA"
    ):
        Parquet(path=tmp_path / "absent").source()


def test_a_missing_file_is_named(tiny: Path) -> None:
    (tiny / "test.parquet").unlink()
    with pytest.raises(UserError, match=r"tiny/test\.parquet: no such file"):
        Parquet(path=tiny).source()


@pytest.mark.parametrize("column", ["img", "label"])
def test_a_missing_column_is_named_among_those_there_are(tmp_path: Path, column: str) -> None:
    folder = write_parquet(
        tmp_path / "a", [png(0)] * 2, [0, 1], **{"image" if column == "img" else "label": "other"}
    )
    with pytest.raises(
        UserError, match=rf"train\.parquet: no column '{column}' among .*other.*\n.*{column[:2]}"
    ):
        Parquet(path=folder).source()


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
        ([0.0, 1.0], "holds double with 0 nulls"),
        (["a", "b"], "holds (large_)?string with 0 nulls"),
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


# --- named data sets without data ------------------------------------------------------------------------------------


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
    store(train, test, ["a", "b", "c"], nowhere / "cache" / "svhn")
    source = Svhn(size=None).source()
    assert source.class_names == ("a", "b", "c")
    assert source.test_y_N.tolist() == [int(label) for _, label in test]
    expected = np.stack([np.array(image) for image, _ in test])
    assert torch.equal(
        source.read("test", torch.arange(9)), torch.from_numpy(expected).permute(0, 3, 1, 2)
    )


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


# --- folders of images -----------------------------------------------------------------------------------------------


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
        UserError, match=r"train: no such folder\nLay the images out as train/CLASS"
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
        UserError, match="test/three: no folder of this name among the training images"
    ):
        ImageFolder(path=broken).source()
