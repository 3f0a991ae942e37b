"""Poison that exists already: the flags are the truth, and nothing is changed or made up."""

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from raybd.attacks.data.given import Given
from raybd.cells.cell import Cell
from raybd.cells.run import run_cell
from raybd.datasets.image_folder import ImageFolder
from raybd.datasets.parquet import Parquet
from raybd.engine.grid.datasets import pack, unpack
from raybd.plan.file import parse
from raybd.results.store import Store
from raybd.types.data import Split
from raybd.types.errors import UserError
from raybd.types.methods import AttackInput
from tests.image_files import png
from tests.tiny_cells import TINY

POISONED = {"cat/4.png": 1, "cat/7.png": 1, "owl/1.png": 2}
"""Roles: two images are poison, one is cross."""
LISTED = "path,role\ncat/4.png\ncat/7.png,poison\nowl/1.png,cross\n\n"


def folder(root: Path, listed: str | None = None) -> tuple[Path, Path]:
    """Twenty images, each with a grey value of its own, and a list of the poisoned ones."""
    for number, name in enumerate(("cat", "owl")):
        for row in range(10):
            path = root / "images" / name / f"{row}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(100 * number + 10 * row, 32))
    file = root / "poisoned.txt"
    file.write_text(LISTED if listed is None else listed)
    return root / "images", file


def roles(dataset: Any) -> dict[str, int]:
    """The role of each training image by its name."""
    return {
        dataset.name_of("train", row): int(role) for row, role in enumerate(dataset.role_N.tolist())
    }


def test_the_flags_of_a_list_belong_to_their_images(tmp_path: Path) -> None:
    images, file = folder(tmp_path)
    for seed in range(5):
        dataset = ImageFolder(path=images, poison_list=file, clean=4, split_seed=seed).load()
        found = roles(dataset)
        # Poison is in neither of the other parts.
        assert {name: role for name, role in found.items() if role} == POISONED
        assert len(found) == 12
        names = {dataset.name_of(part, row) for part in ("clean", "test") for row in range(4)}  # type: ignore[arg-type]
        assert len(names | set(found)) == 20


@pytest.mark.parametrize(
    "flags",
    [
        [False, True, False, True],
        [0, 1, 0, 1],
        ["clean", "poison", "clean", "poison"],
        pa.array([0, 1, 0, 1], pa.int8()),
    ],
    ids=["bool", "number", "word", "small"],
)
def test_the_flags_of_a_column_belong_to_their_rows(tmp_path: Path, flags: Any) -> None:
    flags = flags.to_pylist() if isinstance(flags, pa.Array) else flags
    rows = {"image": [png(row, 32) for row in range(24)], "label": ["cat", "owl", "cat"] * 8}
    table = pa.table({**rows, "bad": flags * 6})
    pq.write_table(table, tmp_path / "train.parquet", row_group_size=5)
    dataset = Parquet(path=tmp_path, poison_column="bad", clean=4).load()
    found = roles(dataset)
    assert all(role == int(str(name).split(":")[1]) % 2 for name, role in found.items())
    assert sum(found.values()) == 12


@pytest.mark.parametrize(
    ("listed", "said"),
    [
        ("cat/4.png\ncat/99.png\n", r"poisoned\.txt, line 2: 'cat/99\.png' is no training image"),
        ("cat/4.png,bad\n", r"poisoned\.txt, line 1: 'bad' is no flag"),
        ("cat/4.png,3\n", r"poisoned\.txt, line 1: '3' is no flag"),
    ],
)
def test_a_list_that_does_not_fit_is_named_with_its_line(
    tmp_path: Path, listed: str, said: str
) -> None:
    images, file = folder(tmp_path, listed)
    with pytest.raises(UserError, match=said):
        ImageFolder(path=images, poison_list=file).source()


def test_a_missing_list_and_a_missing_column_are_named(tmp_path: Path) -> None:
    images, file = folder(tmp_path)
    with pytest.raises(UserError, match=r"nowhere\.txt: can't be read"):
        ImageFolder(path=images, poison_list=tmp_path / "nowhere.txt").source()
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="no text in UTF-8"):
        ImageFolder(path=images, poison_list=file).source()
    rows = {"image": [png(row) for row in range(8)], "label": [0, 1] * 4, "bad": [None, 1] * 4}
    pq.write_table(pa.table(rows), tmp_path / "train.parquet")
    with pytest.raises(UserError, match=r"no column 'other' among .*\n.*poison_column"):
        Parquet(path=tmp_path / "train.parquet", poison_column="other").source()
    with pytest.raises(UserError, match="None is no flag of poison"):
        Parquet(path=tmp_path / "train.parquet", poison_column="bad").source()


def test_the_flags_are_part_of_the_key_and_their_place_is_not(tmp_path: Path) -> None:
    images, file = folder(tmp_path)
    method = ImageFolder(path=images, poison_list=file)
    moved = file.rename(tmp_path / "moved.txt")
    again = ImageFolder(path=images, poison_list=moved)
    before = again.source().fingerprint
    assert method.model_dump(mode="json") == again.model_dump(mode="json")
    moved.write_text("cat/4.png\n")
    fewer = again.source().fingerprint
    assert len({before, fewer, ImageFolder(path=images).source().fingerprint}) == 3


def test_other_flags_of_the_same_images_are_another_key(tmp_path: Path) -> None:
    # With test images of its own, the flags decide about no row of the split.
    for part in ("train", "test"):
        folder(tmp_path / part)
        (tmp_path / part / "images").rename(tmp_path / f"all_{part}")
    (tmp_path / "both").mkdir()
    for part in ("train", "test"):
        (tmp_path / f"all_{part}").rename(tmp_path / "both" / part)
    file = tmp_path / "poisoned.txt"
    method = ImageFolder(path=tmp_path / "both", poison_list=file)
    found = set()
    for flagged in ("cat/4.png", "cat/5.png"):
        file.write_text(f"train/{flagged}\n")
        found.add(method.source().fingerprint)
    assert len(found) == 2


def test_flags_survive_the_way_between_processes(tmp_path: Path) -> None:
    images, file = folder(tmp_path)
    dataset = ImageFolder(path=images, poison_list=file, clean=4).load()
    assert roles(unpack(pack(dataset))) == roles(dataset)


def test_the_overlay_is_what_is_flagged_as_it_is() -> None:
    x_NCHW = torch.arange(5, dtype=torch.uint8)[:, None, None, None].expand(5, 3, 4, 4).contiguous()
    train = Split(x_NCHW, torch.tensor([0, 1, 0, 1, 0]))
    role_N = torch.tensor([2, 0, 1, 0, 1], dtype=torch.int8)
    rng = torch.Generator().manual_seed(0)
    poisoned = Given().poison(AttackInput(train, 2, role_N=role_N), rng)
    assert poisoned.index_M.tolist() == [2, 4, 0], "poison comes first"
    assert torch.equal(poisoned.role_N(5), role_N)
    over = poisoned.over(train)
    assert torch.equal(over.x_NCHW, train.x_NCHW)
    assert torch.equal(over.y_N, train.y_N)
    assert not poisoned.labels.counted(train.y_N).any()
    with pytest.raises(UserError, match="no flags of poison"):
        Given().poison(AttackInput(train, 2), rng)


def cells(tmp_path: Path, attack: str, flagged: bool = True, **more: Any) -> tuple[Cell, ...]:
    images, file = folder(tmp_path)
    entry: dict[str, Any] = {"kind": "image_folder", "path": str(images), "clean": 4}
    entry |= {"poison_list": str(file)} if flagged else {}
    asked = {**TINY, "datasets": [entry], "attacks": [{"kind": attack}], "removal": False, **more}
    return parse(asked).cells()


def test_a_detector_is_judged_by_the_flags_and_success_is_null(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    cell = next(cell for cell in cells(tmp_path, "given") if cell.defense is not None)
    row = run_cell(cell, store)
    assert row["status"] == "ok"
    assert row["attack_success"] is None
    assert row["rate"] is None
    assert row["clean_accuracy"] is not None
    scores = store.scores().set_index("path")
    assert scores["role"].to_dict() == {
        name: {0: "clean", 1: "poison", 2: "cross"}[POISONED.get(str(name), 0)]
        for name in scores.index
    }
    # By hand: the share of pairs of a poisoned and another image that are in the right order.
    poison = scores["score"][scores["role"] == "poison"]
    others = scores["score"][scores["role"] != "poison"]
    pairs = [(a > b) + 0.5 * (a == b) for a in poison for b in others]
    assert row["auroc"] == pytest.approx(sum(pairs) / len(pairs))
    # Nobody knows what the labels of the poisoned images were.
    changed = scores["role"] != "clean"
    assert scores["true_label"][changed].isna().all()
    assert scores["true_label_name"][changed].isna().all()
    assert (scores["true_label"] == scores["label"])[~changed].all()
    assert not pd.isna(scores["label_name"]).any()


@pytest.mark.parametrize(
    ("attack", "flagged", "said"),
    [
        ("given", False, "names no flags"),
        ("badnets", True, "came poisoned"),
        ("none", True, "came poisoned"),
    ],
)
def test_a_plan_knows_that_flags_and_attack_do_not_fit(
    tmp_path: Path, attack: str, flagged: bool, said: str
) -> None:
    for cell in cells(tmp_path, attack, flagged):
        assert said in str(cell.infeasible)
