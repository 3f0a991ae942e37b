"""Classes: the same names mean the same labels, and every class has training images."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from raybd.datasets.image_folder import ImageFolder
from raybd.datasets.parquet import Parquet
from raybd.plan.file import parse
from raybd.results.store import Store
from raybd.sweeps.file import parse_sweep
from raybd.types.errors import UserError
from tests.image_files import png, write_parquet
from tests.tiny_cells import TINY


def _parts(folder: Path, **parts: tuple[list[int], list[str] | None]) -> Path:
    """Write parts of which each image has the value of its class name's first letter."""
    for part, (labels, names) in parts.items():
        values = [ord(names[label][0]) if names else label for label in labels]
        write_parquet(folder / "both", [png(value) for value in values], labels, names=names)
        folder.mkdir(exist_ok=True)
        (folder / "both" / "train.parquet").rename(folder / f"{part}.parquet")
    return folder


def test_class_names_in_another_order_are_mapped_by_name(tmp_path: Path) -> None:
    train = ([0, 1, 2] * 4, ["cat", "dog", "owl"])
    same = _parts(tmp_path / "same", train=train, test=([0, 1, 2], ["cat", "dog", "owl"]))
    moved = _parts(tmp_path / "moved", train=train, test=([0, 1, 2], ["owl", "cat", "dog"]))
    source = Parquet(path=moved).source()
    assert source.class_names == ("cat", "dog", "owl")
    assert source.test_y_N.tolist() == [2, 0, 1]
    data = Parquet(path=moved, clean=3).load()
    for split in (data.train, data.test):
        letters = [data.class_names[label][0] for label in split.y_N.tolist()]
        assert split.x_NCHW[:, 0, 0, 0].tolist() == [ord(letter) for letter in letters]
    assert Parquet(path=same).source().test_y_N.tolist() == [0, 1, 2]


@pytest.mark.parametrize("names", [["cat", "dog", "eel"], ["cat", "dog", "dog"]])
def test_other_class_names_are_refused_and_both_are_named(names: list[str], tmp_path: Path) -> None:
    train = ([0, 1, 2], ["cat", "dog", "owl"])
    folder = _parts(tmp_path / "a", train=train, test=([0, 1, 2], names))
    with pytest.raises(UserError) as error:
        Parquet(path=folder).source()
    for name in (*names, "owl", "test.parquet"):
        assert name in error.value.what


def test_names_in_one_file_are_those_of_both(tmp_path: Path) -> None:
    folder = _parts(tmp_path / "a", train=([0, 1], None), test=([1, 0], ["cat", "dog"]))
    source = Parquet(path=folder).source()
    assert source.class_names == ("cat", "dog")
    assert source.test_y_N.tolist() == [1, 0]


def test_labels_from_one_and_gaps_are_renumbered(tmp_path: Path) -> None:
    folder = _parts(tmp_path / "a", train=([1, 2, 5, 5], None), test=([5, 1, 2], None))
    source = Parquet(path=folder).source()
    assert source.class_names == ("1", "2", "5")
    assert source.train_y_N.tolist() == [0, 1, 2, 2]
    assert source.test_y_N.tolist() == [2, 0, 1]


def test_a_class_of_test_images_alone_is_refused(tmp_path: Path) -> None:
    folder = _parts(tmp_path / "a", train=([0, 2], None), test=([0, 1, 2], None))
    with pytest.raises(UserError, match="test images of '1', but no training image"):
        Parquet(path=folder).source()


def test_an_empty_folder_is_no_class(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for name in ("a", "c"):
            (tmp_path / part / name).mkdir(parents=True)
            (tmp_path / part / name / "0.png").write_bytes(png(0))
    before = ImageFolder(path=tmp_path).source()
    (tmp_path / "train" / "b").mkdir()
    source = ImageFolder(path=tmp_path).source()
    assert source.class_names == before.class_names == ("a", "c")
    assert source.train_y_N.tolist() == source.test_y_N.tolist() == [0, 1]


def test_names_of_digits_stay_what_they_are(tmp_path: Path) -> None:
    names = ["05", "10", "1"]
    folder = _parts(tmp_path / "a", train=([0, 1, 2], names), test=([0, 1, 2], names))
    assert Parquet(path=folder).source().class_names == ("05", "10", "1")


@pytest.mark.parametrize("name", ["05", "7", "0x10", "0XfF"])
def test_a_name_that_pandas_would_read_as_a_number_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="name of a folder"):
        parse({**TINY, "attacks": [{"kind": "badnets", "name": name}]})
    sweep = {
        "name": name,
        "experiment": {key: value for key, value in TINY.items() if key != "name"},
        "search": {"detectors.0": {"cut": {"choices": [1.0, 2.0]}}},
        "objectives": ["auroc"],
    }
    with pytest.raises(UserError, match="name"):
        parse_sweep(sweep)


@pytest.mark.parametrize("name", ["05a", "5.5", "0-1", "a5", "0xg", "1e5", "2024-01-01", "null"])
def test_the_filter_and_the_merge_of_the_readme_work_for_every_allowed_name(
    name: str, tmp_path: Path
) -> None:
    attack = parse({**TINY, "attacks": [{"kind": "badnets", "name": name}]}).attacks[0].name
    store = Store(str(tmp_path))
    columns: dict[str, Any] = {
        "cell": ["c"], "experiment": ["e"], "sweep": [None], "trial": [None], "trainer": ["t"],
        "seed": [0], "pool": ["train"], "index": [0], "label": [0], "true_label": [0],
        "role": ["clean"], "score": [0.5], "threshold": [1.0], "flagged": [False],
    }  # fmt: skip
    store.write_scores("c", "digits", attack, "spectral", columns)
    scores = pd.read_parquet(
        tmp_path / "scores", filters=[("attack", "==", attack), ("defense", "==", "spectral")]
    )
    assert scores["attack"].tolist() == [name]
