"""Every score row says where its sample is stored, and what its classes are called."""

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from raybd.cells.cell import Cell
from raybd.cells.row_names import name_columns, name_tensors
from raybd.cells.run import run_cell
from raybd.datasets.digits import Digits
from raybd.datasets.image_folder import ImageFolder
from raybd.datasets.parquet import Parquet
from raybd.engine.grid.datasets import pack, unpack
from raybd.results.artifacts import Artifact, Foreign
from raybd.results.store import Store
from raybd.types.data import Dataset, Part
from tests.image_files import png, write_parquet
from tests.tiny_cells import one_cell

PARTS: tuple[Part, ...] = ("train", "clean", "test")
VALUES = [7 * row for row in range(30)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Fifteen images of each of two classes; each image has a grey value of its own."""
    for part in ("train", "test"):
        for row, value in enumerate(VALUES):
            path = tmp_path / "folder" / part / ("cat", "owl")[row % 2] / f"{row}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(value))
    return tmp_path / "folder"


def grey(dataset: Dataset, part: Part) -> list[int]:
    split = {"train": dataset.train, "clean": dataset.clean, "test": dataset.test}[part]
    return [int(value) for value in split.x_NCHW[:, 0, 0, 0]]


def test_a_row_of_a_folder_is_named_by_its_file(folder: Path) -> None:
    dataset = ImageFolder(path=folder, clean=6).load()
    for part in PARTS:
        for row, value in enumerate(grey(dataset, part)):
            name = dataset.name_of(part, row)
            assert name is not None
            assert np.asarray(Image.open(folder / name))[0, 0, 0] == value
            assert name.startswith("test/" if part == "test" else "train/")


def test_a_row_of_a_parquet_file_is_named_by_file_and_row(tmp_path: Path) -> None:
    write_parquet(tmp_path, [png(value) for value in VALUES], [0, 1] * 15)
    dataset = Parquet(path=tmp_path, clean=6).load()
    for part in PARTS:
        file = "test.parquet" if part == "test" else "train.parquet"
        names = [dataset.name_of(part, row) for row in range(len(grey(dataset, part)))]
        assert names == [f"{file}:{VALUES.index(value)}" for value in grey(dataset, part)]


def test_a_digit_is_named_by_its_line() -> None:
    dataset = Digits(limit=20, clean=10).load()
    names = [dataset.name_of(part, row) for part in PARTS for row in range(10)]
    assert len(set(names)) == 30
    assert all(str(name).startswith("digits.csv.gz:") for name in names)


def test_names_survive_the_way_between_processes(folder: Path) -> None:
    dataset = ImageFolder(path=folder, clean=6).load()
    again = unpack(pack(dataset))
    assert [again.name_of("clean", row) for row in range(6)] == [
        dataset.name_of("clean", row) for row in range(6)
    ]


def test_a_file_whose_name_is_no_text_has_a_name_that_is_one(folder: Path) -> None:
    odd = bytes(folder / "train" / "cat") + b"/\xff.png"
    Path(str(folder / "train" / "cat" / "0.png")).rename(odd.decode(errors="surrogateescape"))
    dataset = ImageFolder(path=folder, clean=2).load()
    names = [dataset.name_of("train", row) for row in range(len(dataset.train))]
    names += [dataset.name_of("clean", row) for row in range(2)]
    assert "train/cat/\\xff.png" in names


def cell_on(folder: Path, **more: Any) -> Cell:
    dataset = {"kind": "image_folder", "path": str(folder), "clean": 6, "size": 32}
    return one_cell(datasets=[dataset], removal=False, **more)


@pytest.mark.parametrize("detector", ["spectral", "tests.methods.watches"])
def test_score_rows_name_the_file_and_the_classes(
    folder: Path, tmp_path: Path, detector: str
) -> None:
    store = Store(str(tmp_path / "store"))
    cell = cell_on(folder, detectors=[{"kind": detector, "name": "d"}])
    run_cell(cell, store)
    rows = store.scores()
    part: Part = "train" if set(rows["pool"]) == {"train"} else "test"
    dataset = cell.dataset.config.load()  # type: ignore[attr-defined]
    assert len(rows) >= len(grey(dataset, part))
    assert rows["path"].tolist() == [dataset.name_of(part, row) for row in rows["index"]]
    for row in rows.itertuples():
        assert (row.label_name, row.true_label_name) == (
            ("cat", "owl")[row.label],
            ("cat", "owl")[row.true_label],
        )
        assert row.true_label_name == Path(row.path).parent.name


def test_a_training_defense_names_its_rows(folder: Path, tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    defense = {"kind": "tests.methods.defends", "name": "d"}
    run_cell(cell_on(folder, detectors=[], training_defenses=[defense]), store)
    rows = store.scores()
    assert len(rows)
    assert all((folder / path).is_file() for path in rows["path"])


def artifact(**tensors: torch.Tensor) -> Artifact:
    labels = torch.tensor([1, 0, 1])
    own = {"score_N": torch.rand(3), "label_N": labels, "true_label_N": labels.flip(0)}
    return Artifact({**own, **tensors}, {})


def dataset_of(names: list[str]) -> Dataset:
    dataset = Digits(limit=20, clean=10).load()
    return Dataset(("cat", "owl"), dataset.train, dataset.clean, dataset.test, {
        "train": pa.array(names)
    })  # fmt: skip


def test_names_come_back_from_an_artefact_in_the_order_of_the_rows() -> None:
    tensors = name_tensors(dataset_of(["ä", "", "c"]), "train", torch.tensor([2, 0, 1]))
    assert name_columns(artifact(**tensors)) == {
        "path": ["c", "ä", ""],
        "label_name": ["owl", "cat", "owl"],
        "true_label_name": ["owl", "cat", "owl"],
    }


def test_an_artefact_without_names_gives_nulls() -> None:
    none = [None] * 3
    assert name_columns(artifact()) == {
        "path": none, "label_name": none, "true_label_name": none
    }  # fmt: skip


def packed(data: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(zlib.compress(data)), dtype=torch.uint8)


@pytest.mark.parametrize(
    "tensors",
    [
        {"path_text": packed(b"a\0b\0")},
        {"path_text": packed(b"a\0b\0c")},
        {"path_text": packed(b"a\0b\0\xff\0")},
        {"path_text": packed(b"a\0b\0c\0")[:-6]},
        {"path_text": torch.zeros(8, dtype=torch.uint8)},
        {"class_text": packed(b"cat\0")},
    ],
    ids=["few", "no end", "no UTF-8", "cut", "not packed", "no name for a label"],
)
def test_names_that_do_not_fit_the_scores_are_refused(tensors: dict[str, torch.Tensor]) -> None:
    with pytest.raises(Foreign):
        name_columns(artifact(**tensors))
