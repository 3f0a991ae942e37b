"""Data as people have them: each is read rightly, or refused by a line that names the file."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from raybd.datasets.image_folder import ImageFolder
from raybd.datasets.parquet import Parquet
from raybd.plan.file import parse
from raybd.reading.entry import entry_for
from raybd.reading.folders import folder_collections
from raybd.reading.notes import say_once
from raybd.reading.own import OwnImages
from raybd.registry import method_class
from raybd.types.data import Dataset, Part, Split
from raybd.types.errors import UserError
from tests.image_files import png
from tests.tiny_cells import TINY

PARTS: tuple[Part, ...] = ("train", "clean", "test")


@pytest.fixture(autouse=True)
def nothing_was_said() -> None:
    """A process says a text once; other tests may have said it."""
    say_once.cache_clear()


def split_of(dataset: Dataset, part: Part) -> Split:
    return {"train": dataset.train, "clean": dataset.clean, "test": dataset.test}[part]


def everything(dataset: Dataset) -> dict[str, tuple[int, str]]:
    """The grey value of the first pixel, and the class, of each image by its name."""
    found = {}
    for part in PARTS:
        split = split_of(dataset, part)
        for row in range(len(split)):
            name = dataset.name_of(part, row)
            assert name is not None
            found[name] = (int(split.x_NCHW[row, 0, 0, 0]), dataset.class_names[split.y_N[row]])
    return found


def write(folder: Path, value: int, name: str, *, side: int = 8) -> None:
    """Write a grey image under a name, whose suffix says the kind."""
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.full((side, side, 3), value, np.uint8))
    image.save(folder / name)


def two_classes(folder: Path, count: int = 6, *, below: str = "") -> Path:
    for row in range(count):
        write(folder, 10 * row, f"{below}cat/{row}.png")
        write(folder, 100 + 10 * row, f"{below}owl/{row}.png")
    return folder


def one_picture(folder: Path, image: Image.Image, name: str, **options: Any) -> torch.Tensor:
    """Return the pixels that a data set has of a picture, x_CHW."""
    two_classes(folder / "train")
    (folder / "test" / "cat").mkdir(parents=True)
    image.save(folder / "test" / "cat" / name, **options)
    return folder_collections(folder)["test"].decoded(torch.tensor([0]), None, "resize")[0]


def own(entry: dict[str, Any], **more: Any) -> OwnImages:
    fields = {key: value for key, value in entry.items() if key != "kind"}
    made = method_class("datasets", entry["kind"])(**fields, **more)
    assert isinstance(made, OwnImages)
    return made


# --- 1: class folders, and no test part ----------------------------------------------------------


def test_a_folder_of_class_folders_is_read_and_a_test_part_held_out(tmp_path: Path) -> None:
    two_classes(tmp_path, 10)
    entry = entry_for(tmp_path)
    assert entry == {"kind": "image_folder", "path": str(tmp_path)}
    dataset = own(entry, clean=4).load()
    assert [len(split_of(dataset, part)) for part in PARTS] == [12, 4, 4]
    assert everything(dataset) == {
        f"{name}/{row}.png": (first + 10 * row, name)
        for name, first in (("cat", 0), ("owl", 100))
        for row in range(10)
    }
    (note,) = own(entry).source().notes
    assert "no test part: 4 images are held out" in note
    other = own(entry, clean=4, split_seed=5).load()
    names = [{one.name_of("test", row) for row in range(4)} for one in (dataset, other)]
    assert names[0] == names[1], "the test part is a property of the data"


def test_the_held_out_share_is_that_of_each_class(tmp_path: Path) -> None:
    for row in range(40):
        write(tmp_path, row, f"many/{row}.png")
    for row in range(10):
        write(tmp_path, 100 + row, f"few/{row}.png")
    write(tmp_path, 200, "single/0.png")
    source = ImageFolder(path=tmp_path, test_share=0.3).source()
    assert source.class_names == ("few", "many", "single")
    assert torch.bincount(source.test_y_N, minlength=3).tolist() == [3, 12, 0]
    assert torch.bincount(source.train_y_N).tolist() == [7, 28, 1]
    dataset = ImageFolder(path=tmp_path, test_share=0.3, clean=5).load()
    assert 2 in dataset.train.y_N.tolist(), "a class of one image keeps it for training"


def test_classes_that_are_too_small_for_a_test_part_are_refused(tmp_path: Path) -> None:
    two_classes(tmp_path, 2)
    with pytest.raises(UserError, match="no test part, and no class has images to spare"):
        ImageFolder(path=tmp_path).source()


def test_the_note_is_said_once_by_a_plan(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    entry = {**entry_for(two_classes(tmp_path, 10)), "name": "mine"}
    for _ in range(2):
        assert parse({**TINY, "datasets": [{**entry, "size": 32, "clean": 4}]}).cells()
    said = [record.message for record in caplog.records if "held out" in record.message]
    assert len(said) == 1
    assert said[0].startswith("mine: ")


# --- 2: nested folders, suffixes, links, and what is no image ------------------------------------


def test_nested_folders_and_all_suffixes_are_read_and_the_rest_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = ["a.PNG", "deep/er/b.Jpg", "c.jpeg", "d.bmp", "e.webp", "f.gif", "g.tif", "h.TIFF"]
    names += ["i.ppm", "folder.png/j.png", "k.pnm"]
    for row, name in enumerate(names):
        write(tmp_path / "train", 16 * row, f"cat/{name}")
        write(tmp_path / "train", 16 * row + 4, f"owl/{name}")
    two_classes(tmp_path / "TEST", 2)
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no image")
    (tmp_path / "train" / "cat" / "deep" / "x.svg").write_text("no image")
    (tmp_path / "train" / "cat" / ".hidden.png").write_text("no image")
    (tmp_path / "train" / ".cache").mkdir()
    (tmp_path / "train" / "stray.png").write_bytes(png(1))
    (tmp_path / "train" / "cat" / "deep" / "loop").symlink_to(tmp_path / "train" / "cat")
    (tmp_path / "empty.png").mkdir()

    dataset = ImageFolder(path=tmp_path, clean=2).load()
    found = everything(dataset)
    for row, name in enumerate(names):
        # JPEG and WebP are not exact.
        assert found[f"train/cat/{name}"] == (pytest.approx(16 * row, abs=2), "cat")
        assert found[f"train/owl/{name}"] == (pytest.approx(16 * row + 4, abs=2), "owl")
    assert len(found) == 2 * len(names) + 4
    said = " ".join(record.message for record in caplog.records)
    assert "1 .svg, 1 .txt, 1 images outside of a class folder" in said


def test_a_class_may_be_called_like_a_part(tmp_path: Path) -> None:
    for row in range(6):
        write(tmp_path, row, f"train/{row}.png")
        write(tmp_path, 100 + row, f"bus/{row}.png")
    dataset = ImageFolder(path=tmp_path, clean=2).load()
    assert dataset.class_names == ("bus", "train")
    assert everything(dataset)["train/3.png"] == (3, "train")


def test_validation_images_are_the_test_part_if_there_is_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    two_classes(tmp_path / "train")
    two_classes(tmp_path / "val", 2)
    assert len(ImageFolder(path=tmp_path).source().test_y_N) == 4
    two_classes(tmp_path / "test", 3)
    assert len(ImageFolder(path=tmp_path).source().test_y_N) == 6
    assert "'val' is not read" in caplog.text


def test_two_folders_for_one_part_are_refused(tmp_path: Path) -> None:
    for name in ("train", "Training"):
        two_classes(tmp_path / name)
    with pytest.raises(UserError, match="both Training and train are the train part"):
        ImageFolder(path=tmp_path).source()


# --- 3: images that can't be read ----------------------------------------------------------------


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """Twelve good images, a cut one, an empty one, a broken link and a folder's link."""
    two_classes(tmp_path)
    (tmp_path / "cat" / "cut.png").write_bytes(png(3)[:50])
    (tmp_path / "cat" / "empty.png").write_bytes(b"")
    (tmp_path / "owl" / "link.png").symlink_to(tmp_path / "nowhere.png")
    return tmp_path


def test_an_unreadable_image_is_named(broken: Path) -> None:
    with pytest.raises(UserError, match=r"owl/link\.png: can't be read"):
        ImageFolder(path=broken).source()
    (broken / "owl" / "link.png").unlink()
    with pytest.raises(UserError, match=r"cat/(cut|empty)\.png: not a readable image"):
        ImageFolder(path=broken, clean=2).load()


def test_unreadable_images_can_be_left_out_and_are_named(broken: Path) -> None:
    method = ImageFolder(path=broken, clean=2, unreadable="skip")
    dataset = method.load()
    assert everything(dataset) == {
        f"{name}/{row}.png": (first + 10 * row, name)
        for name, first in (("cat", 0), ("owl", 100))
        for row in range(6)
    }
    note = method.source().notes[0]
    assert note.startswith("3 of 15 images are left out: ")
    for name in ("cut.png", "empty.png", "link.png"):
        assert name in note
    before = method.source().fingerprint
    (broken / "cat" / "cut.png").write_bytes(png(3))
    assert method.source().fingerprint != before
    assert len(everything(method.load())) == 13


def test_unreadable_rows_of_a_file_can_be_left_out(tmp_path: Path) -> None:
    images = [png(row) for row in range(8)]
    write_table(tmp_path / "train.parquet", [*images[:3], b"x", None, *images[3:]], [0, 1] * 5)
    method = Parquet(path=tmp_path, clean=2, unreadable="skip")
    assert everything(method.load()) == {
        f"train.parquet:{row}": (row if row < 3 else row - 2, str(row % 2))
        for row in (0, 1, 2, 5, 6, 7, 8, 9)
    }
    assert "row 3: not a readable image" in method.source().notes[0]
    before = method.source().fingerprint
    assert before != Parquet(path=tmp_path, clean=2).source().fingerprint
    with pytest.raises(UserError, match=r"train\.parquet, row 3: not a readable image"):
        Parquet(path=tmp_path).load()


# --- 4: kinds of pixels --------------------------------------------------------------------------


def test_sixteen_bits_become_eight(tmp_path: Path) -> None:
    values = np.array([[0, 257, 300], [128, 65535, 32768]], np.uint16)
    for name in ("x.png", "x.tif", "x.pgm"):
        x_CHW = one_picture(tmp_path / name, Image.fromarray(values), name)
        # v / 257: 300 / 257 = 1.17, 128 / 257 = 0.498, 32768 / 257 = 127.502.
        assert x_CHW.tolist() == [[[0, 1, 1], [0, 255, 128]]] * 3, name


def test_floating_point_numbers_are_shares_of_white(tmp_path: Path) -> None:
    values = np.array([[0.0, 0.5], [1.0, 0.1]], np.float32)
    x_CHW = one_picture(tmp_path, Image.fromarray(values), "x.tif")
    assert x_CHW.tolist() == [[[0, 128], [255, 26]]] * 3


@pytest.mark.parametrize(
    ("value", "said"), [(200.0, "floating-point"), (float("nan"), "nan"), (-0.1, "floating-point")]
)
def test_floating_point_numbers_without_a_known_range_are_named(
    tmp_path: Path, value: float, said: str
) -> None:
    image = Image.fromarray(np.full((2, 2), value, np.float32))
    with pytest.raises(UserError, match=rf"test/cat/x\.tif: not a readable image: .*{said}"):
        one_picture(tmp_path, image, "x.tif")


def test_whole_numbers_of_thirty_two_bits_are_named(tmp_path: Path) -> None:
    image = Image.fromarray(np.full((2, 2), 70_000, np.int32))
    with pytest.raises(UserError, match=r"test/cat/x\.tif: .*no known white"):
        one_picture(tmp_path, image, "x.tif")


def test_transparent_pixels_are_put_on_white_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pixels = np.array([[[9, 8, 7, 255], [9, 8, 7, 0], [0, 0, 0, 128]]], np.uint8)
    x_CHW = one_picture(tmp_path / "rgba", Image.fromarray(pixels), "x.png")
    # 255 * (1 - 128 / 255) = 127.
    assert x_CHW[:, 0].T.tolist() == [[9, 8, 7], [255] * 3, [127] * 3]
    assert "1 of 1 images are transparent in places, and were put on white" in caplog.text

    grey = Image.fromarray(pixels[:, :2, [0, 3]])
    assert one_picture(tmp_path / "la", grey, "x.png").tolist() == [[[9, 255]]] * 3
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    palette.putpalette([5, 6, 7, 50, 60, 70])
    x_CHW = one_picture(tmp_path / "p", palette, "x.png", transparency=1)
    assert x_CHW[:, 0].T.tolist() == [[5, 6, 7], [255] * 3]


def test_a_palette_and_cmyk_become_rgb(tmp_path: Path) -> None:
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    palette.putpalette([5, 6, 7, 50, 60, 70])
    x_CHW = one_picture(tmp_path / "p", palette, "x.png")
    assert x_CHW[:, 0].T.tolist() == [[5, 6, 7], [50, 60, 70]]
    cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    x_CHW = one_picture(tmp_path / "cmyk", cmyk, "x.jpg", quality=100)
    assert (x_CHW.int() - torch.tensor([255, 0, 0])[:, None, None]).abs().max() < 8
    bits = Image.fromarray(np.array([[True, False]]))
    assert one_picture(tmp_path / "bits", bits, "x.png").tolist() == [[[255, 0]]] * 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_as_its_tag_says(tmp_path: Path, orientation: int) -> None:
    upright = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    # What a camera stores for each orientation, from the EXIF standard: (turns, mirrored).
    stored = {
        1: upright,
        2: np.fliplr(upright),
        3: np.rot90(upright, 2),
        4: np.flipud(upright),
        5: upright.T,
        6: np.rot90(upright, 1),
        7: np.rot90(upright, 2).T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[274] = orientation
    image = Image.fromarray(np.ascontiguousarray(stored))
    x_CHW = one_picture(tmp_path, image, "x.png", exif=exif)
    assert x_CHW.tolist() == [upright.tolist()] * 3


def test_of_an_animation_the_first_picture_counts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frames = [Image.new("RGB", (4, 4), (value,) * 3) for value in (10, 200)]
    for name in ("x.gif", "x.tif"):
        x_CHW = one_picture(
            tmp_path / name, frames[0], name, save_all=True, append_images=frames[1:]
        )
        assert x_CHW.unique().tolist() == [10]
    assert "several pictures" in caplog.text


# --- 5: sizes ------------------------------------------------------------------------------------


def bars(width: int, height: int) -> Image.Image:
    """Black, with a white column at the left and at the right."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 4] = pixels[:, -(width // 4) :] = 255
    return Image.fromarray(pixels)


@pytest.mark.parametrize(
    ("fit", "row"),
    [("resize", [255, 0, 0, 255]), ("center_crop", [0, 0, 0, 0]), ("pad", [255, 0, 0, 255])],
)
def test_images_of_mixed_sizes_are_fitted_by_a_named_rule(
    tmp_path: Path, fit: Any, row: list[int]
) -> None:
    two_classes(tmp_path / "train")
    (tmp_path / "test" / "cat").mkdir(parents=True)
    bars(16, 8).save(tmp_path / "test" / "cat" / "x.png")
    source = ImageFolder(path=tmp_path, size=4, fit=fit).source()
    x_HW = source.read("test", torch.tensor([0]))[0, 0]
    assert x_HW.shape == (4, 4)
    assert [int(value > 127) * 255 for value in x_HW[2]] == row
    # 16 x 8 becomes 4 x 2, between a black line above and one below.
    assert bool((x_HW[[0, 3]] == 0).all()) == (fit == "pad")


def test_images_of_mixed_sizes_without_a_size_are_refused_before_anything_runs(
    tmp_path: Path,
) -> None:
    two_classes(tmp_path)
    write(tmp_path, 1, "owl/odd.png", side=9)
    with pytest.raises(UserError, match=r"owl/.*\.png: images of unequal size.*\nSet `size`"):
        ImageFolder(path=tmp_path).source()
    write_table(tmp_path / "x.parquet", [png(0, 8), png(1, 9)] * 5, [0, 1] * 5)
    with pytest.raises(UserError, match=r"x\.parquet, row \d+: images of unequal size"):
        Parquet(path=tmp_path / "x.parquet").source()


def test_oblong_images_are_read_as_they_are(tmp_path: Path) -> None:
    two_classes(tmp_path / "other")
    for part in ("train", "test"):
        for row in range(6):
            for name in ("cat", "owl"):
                (tmp_path / part / name).mkdir(parents=True, exist_ok=True)
                image = bars(16, 8)
                image.putpixel((8, 2), (row, 0, 0))
                image.save(tmp_path / part / name / f"{row}.png")
    dataset = ImageFolder(path=tmp_path, clean=2).load()
    assert dataset.train.x_NCHW.shape == (10, 3, 8, 16)
    for row in range(10):
        name = dataset.name_of("train", row)
        assert f"{dataset.train.x_NCHW[row, 0, 2, 8]}.png" == Path(str(name)).name


# --- 6: Parquet files of all kinds ---------------------------------------------------------------


def write_table(
    path: Path,
    images: Any,
    labels: Any,
    *,
    image: str = "image",
    label: str = "label",
    features: Any = None,
    kind: pa.DataType | None = None,
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = kind or pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    if pa.types.is_struct(kind):
        images = [one if isinstance(one, dict) else {"bytes": one} for one in images]
    table = pa.table({image: pa.array(images, kind), label: labels})
    if features is not None:
        about = {"huggingface": json.dumps({"info": {"features": features}})}
        table = table.replace_schema_metadata(about)
    pq.write_table(table, path, row_group_size=3)
    return path


COLUMNS: dict[str, tuple[dict[str, Any], Callable[[int], Any]]] = {
    "image and labels": ({"label": "labels"}, lambda row: row % 2),
    "img and fine_label": ({"image": "img", "label": "fine_label"}, lambda row: row % 2),
    "names as labels": ({}, lambda row: ("0", "1")[row % 2]),
    "bytes": ({"kind": pa.binary()}, lambda row: row % 2),
    "large bytes": ({"kind": pa.large_binary()}, lambda row: row % 2),
    "unknown names": (
        {
            "image": "foto",
            "label": "sort",
            "features": {
                "foto": {"_type": "Image"},
                "sort": {"_type": "ClassLabel", "names": ["0", "1"]},
            },
        },
        lambda row: row % 2,
    ),
    "small numbers": ({}, lambda row: np.uint8(row % 2)),
}


@pytest.mark.parametrize("what", COLUMNS)
def test_columns_are_found_by_their_names_and_kinds(tmp_path: Path, what: str) -> None:
    options, label = COLUMNS[what]
    images = [png(row) for row in range(12)]
    path = write_table(
        tmp_path / "all.parquet", images, [label(row) for row in range(12)], **options
    )
    entry = entry_for(path)
    assert entry["kind"] == "parquet"
    assert everything(own(entry, clean=2).load()) == {
        f"all.parquet:{row}": (row, str(row % 2)) for row in range(12)
    }


def test_a_dictionary_of_names_is_read_in_the_order_of_the_names(tmp_path: Path) -> None:
    names = pa.array(["owl", "cat", "owl", "ant"] * 3).dictionary_encode()
    path = write_table(tmp_path / "x.parquet", [png(row) for row in range(12)], names)
    source = Parquet(path=path, clean=2).source()
    assert source.class_names == ("ant", "cat", "owl")
    found = everything(Parquet(path=path, clean=2).load())
    assert [found[f"x.parquet:{row}"][1] for row in range(4)] == ["owl", "cat", "owl", "ant"]


def test_columns_that_nothing_tells_are_refused(tmp_path: Path) -> None:
    path = write_table(tmp_path / "x.parquet", [png(0)] * 4, [0, 1] * 2, label="odd")
    said = r"x\.parquet: no column 'label' among image, odd\n.*label_column"
    with pytest.raises(UserError, match=said):
        Parquet(path=path).source()


def test_shards_are_one_part_and_a_missing_one_is_named(tmp_path: Path) -> None:
    names = {"label": {"_type": "ClassLabel", "names": ["cat", "owl"]}}
    for shard in range(4):
        write_table(
            tmp_path / "data" / f"train-{shard:05}-of-00004.parquet",
            [png(10 * shard + row) for row in range(5)],
            [0, 1, 0, 1, shard % 2],
            features=names,
        )
    write_table(
        tmp_path / "data" / "test-00000-of-00001.parquet",
        [png(200), png(201)],
        [1, 0],
        features=names,
    )
    entry = entry_for(tmp_path)
    assert entry["kind"] == "parquet"
    dataset = own(entry, clean=2).load()
    found = everything(dataset)
    assert len(dataset.test) == 2
    for shard in range(4):
        for row, label in enumerate([0, 1, 0, 1, shard % 2]):
            name = f"data/train-{shard:05}-of-00004.parquet:{row}"
            assert found[name] == (10 * shard + row, ("cat", "owl")[label])
    assert found["data/test-00000-of-00001.parquet:0"] == (200, "owl")

    (tmp_path / "data" / "train-00002-of-00004.parquet").unlink()
    with pytest.raises(UserError, match=r"train-00002-of-00004\.parquet: no such file, but 3 of"):
        own(entry).source()


def test_splits_are_told_by_folders_and_their_names_of_classes_are_one_numbering(
    tmp_path: Path,
) -> None:
    write_table(tmp_path / "train" / "0.parquet", [png(r) for r in range(4)], ["b", "c", "b", "c"])
    write_table(tmp_path / "train" / "1.parquet", [png(r + 4) for r in range(4)], ["a"] * 4)
    write_table(tmp_path / "validation" / "0.parquet", [png(9), png(8)], ["c", "a"])
    source = Parquet(path=tmp_path).source()
    assert source.class_names == ("a", "b", "c")
    assert source.train_y_N.tolist() == [1, 2, 1, 2, 0, 0, 0, 0]
    assert source.test_y_N.tolist() == [2, 0]
    write_table(tmp_path / "validation" / "0.parquet", [png(9), png(8)], ["c", "d"])
    with pytest.raises(UserError, match=r"validation.*'d'"):
        Parquet(path=tmp_path).source()


def test_a_file_with_names_of_classes_and_one_without_are_no_part(tmp_path: Path) -> None:
    write_table(tmp_path / "a.parquet", [png(r) for r in range(4)], ["b", "c", "b", "c"])
    write_table(tmp_path / "b.parquet", [png(r) for r in range(4)], [0, 1, 2, 3])
    with pytest.raises(UserError, match=r"b\.parquet: column 'label' has no names"):
        Parquet(path=tmp_path).source()


def test_images_beside_the_file_are_read_and_are_part_of_the_content(tmp_path: Path) -> None:
    two_classes(tmp_path / "pictures")
    names = [f"pictures/cat/{row}.png" for row in range(6)]
    path = write_table(tmp_path / "x.parquet", names, [0, 1] * 3, kind=pa.string())
    with_struct = write_table(tmp_path / "y.parquet", [{"path": n} for n in names], [0, 1] * 3)
    for place in (path, with_struct):
        method = Parquet(path=place, clean=1, test_share=0.34)
        found = everything(method.load())
        assert found == {f"{place.name}:{row}": (10 * row, str(row % 2)) for row in range(6)}
        before = method.source().fingerprint
        write(tmp_path, 77, names[0])
        assert method.source().fingerprint != before
        write(tmp_path, 0, names[0])
        assert method.source().fingerprint == before


def test_a_path_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    write(tmp_path, 1, "secret.png")
    for path in ("../secret.png", str(tmp_path / "secret.png")):
        file = write_table(tmp_path / "in" / "x.parquet", [path] * 6, [0, 1] * 3, kind=pa.string())
        with pytest.raises(UserError, match=r"x\.parquet, row .* leads out of"):
            Parquet(path=file, clean=1).load()


def test_labels_with_gaps_that_begin_anywhere_are_classes(tmp_path: Path) -> None:
    path = write_table(tmp_path / "x.parquet", [png(r) for r in range(12)], [3, 7, 900] * 4)
    dataset = Parquet(path=path, clean=3).load()
    assert dataset.class_names == ("3", "7", "900")
    assert everything(dataset) == {
        f"x.parquet:{row}": (row, ("3", "7", "900")[row % 3]) for row in range(12)
    }


# --- 7: images that are known to be good ---------------------------------------------------------


def test_trusted_images_are_the_clean_part_and_no_suspects(tmp_path: Path) -> None:
    two_classes(tmp_path / "mine", 10)
    for row in range(3):
        write(tmp_path / "good", 51 + 10 * row, f"owl/{row}.png")
    shutil.copy(tmp_path / "mine" / "cat" / "4.png", tmp_path / "good" / "copy.png")
    (tmp_path / "good" / "cat").mkdir()
    (tmp_path / "good" / "copy.png").rename(tmp_path / "good" / "cat" / "a.png")

    entry = entry_for(tmp_path / "mine", tmp_path / "good")
    dataset = own(entry).load()
    clean = {str(dataset.name_of("clean", row)): row for row in range(len(dataset.clean))}
    assert clean.keys() == {"owl/0.png", "owl/1.png", "owl/2.png", "cat/a.png"}
    for name, row in clean.items():
        value = int(dataset.clean.x_NCHW[row, 0, 0, 0])
        assert value == (40 if name == "cat/a.png" else 51 + 10 * int(name[4]))
        assert dataset.class_names[dataset.clean.y_N[row]] == name[:3]
    assert len(dataset.train) + len(dataset.test) == 19
    others = {str(dataset.name_of("train", row)) for row in range(len(dataset.train))}
    assert "cat/4.png" not in others
    notes = own(entry).source().notes
    assert "1 images are trusted, and no suspects: cat/4.png" in notes

    before = own(entry).source().fingerprint
    write(tmp_path / "good", 99, "owl/0.png")
    assert own(entry).source().fingerprint != before


def test_trusted_images_may_lie_in_another_layout(tmp_path: Path) -> None:
    two_classes(tmp_path / "mine", 10)
    good = write_table(tmp_path / "good.parquet", [png(1), png(2)], ["owl", "cat"])
    dataset = own(entry_for(tmp_path / "mine", good)).load()
    values = dataset.clean.x_NCHW[:, 0, 0, 0]
    assert dict(zip(values.tolist(), dataset.clean.y_N.tolist(), strict=True)) == {1: 1, 2: 0}


def test_trusted_rows_are_found_by_the_columns_of_the_others(tmp_path: Path) -> None:
    odd = {"image": "a", "label": "b"}
    mine = write_table(tmp_path / "mine.parquet", [png(r) for r in range(12)], [3, 5] * 6, **odd)
    good = write_table(tmp_path / "good.parquet", [png(99), png(98)], [5, 3], **odd)
    dataset = Parquet(path=mine, trusted=good, image_column="a", label_column="b").load()
    values = dataset.clean.x_NCHW[:, 0, 0, 0]
    assert dict(zip(values.tolist(), dataset.clean.y_N.tolist(), strict=True)) == {99: 1, 98: 0}


def test_a_trusted_image_of_an_unknown_class_is_named(tmp_path: Path) -> None:
    two_classes(tmp_path / "mine", 10)
    write(tmp_path / "good", 1, "fox/0.png")
    with pytest.raises(UserError, match=r"good: trusted images of the classes 'fox'"):
        own(entry_for(tmp_path / "mine", tmp_path / "good")).source()


def test_the_same_picture_in_another_file_is_named(tmp_path: Path) -> None:
    two_classes(tmp_path / "mine", 10)
    write(tmp_path / "good", 40, "cat/again.bmp")
    with pytest.raises(UserError, match=r"cat/again\.bmp .*same picture as cat/4\.png"):
        own(entry_for(tmp_path / "mine", tmp_path / "good")).load()


# --- 8: what is at a place -----------------------------------------------------------------------


def test_what_is_no_data_set_is_refused_by_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "a.png").write_bytes(png(1))
    (tmp_path / "x.zip").write_bytes(b"PK")
    two_classes(tmp_path / "both")
    write_table(tmp_path / "both" / "x.parquet", [png(1)], [0])
    for name, said in {
        "nowhere": "no such file or folder",
        "empty": "no images in class folders",
        "flat": "no images in class folders",
        "x.zip": "a file, but no Parquet or tar file",
        "both": "both Parquet files and images in folders",
    }.items():
        with pytest.raises(UserError, match=rf"{name}.*: .*{said}"):
            entry_for(tmp_path / name)


def test_a_url_is_copied_once_and_again_when_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYBD_CACHE", str(tmp_path / "cache"))
    two_classes(tmp_path / "far", 10)
    (tmp_path / "far" / "cat" / "notes.txt").write_text("no image")
    url = f"file://{tmp_path}/far"
    entry = entry_for(url)
    assert entry == {"kind": "image_folder", "path": url}
    assert len(everything(own(entry, clean=2).load())) == 20
    copies = list((tmp_path / "cache" / "remote").iterdir())
    assert len(copies) == 1
    assert not list(copies[0].rglob("*.txt"))
    write(tmp_path / "far", 7, "cat/0.png", side=8)
    assert everything(own(entry, clean=2).load())["cat/0.png"] == (7, "cat")

    path = write_table(tmp_path / "far.parquet", [png(row) for row in range(12)], [0, 1] * 6)
    found = everything(own(entry_for(f"file://{path}"), clean=2).load())
    assert found["far.parquet:5"] == (5, "1")
    plan = parse({**TINY, "datasets": [{**entry, "size": 32, "clean": 4}]})
    assert plan.describe()["datasets"][0]["path"] == url


def test_a_file_on_a_web_server_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYBD_CACHE", str(tmp_path / "cache"))
    write_table(tmp_path / "far" / "x.parquet", [png(row) for row in range(12)], [0, 1] * 6)
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "far"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/x.parquet"
        entry = entry_for(url)
        found = everything(own(entry, clean=2).load())
        assert found == {f"x.parquet:{row}": (row, str(row % 2)) for row in range(12)}
        with pytest.raises(UserError, match=r"nowhere\.parquet"):
            entry_for(url.replace("x.parquet", "nowhere.parquet"))
        server.shutdown()
    copies = list((tmp_path / "cache").rglob("*.parquet"))
    assert [copy.parent.parent.name for copy in copies] == ["remote"]


def test_a_url_that_can_not_be_had_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYBD_CACHE", str(tmp_path / "cache"))
    for url in (f"file://{tmp_path}/nowhere", "abc://x/y"):
        with pytest.raises(UserError, match=url):
            entry_for(url)


def test_the_place_is_no_part_of_the_key(tmp_path: Path) -> None:
    two_classes(tmp_path / "a", 10)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    one, other = (ImageFolder(path=tmp_path / name) for name in "ab")
    assert one.source().fingerprint == other.source().fingerprint
    assert one.model_dump(mode="json") == other.model_dump(mode="json")
    trusted = ImageFolder(path=tmp_path / "a", trusted=tmp_path / "b")
    assert "trusted" not in trusted.model_dump(mode="json")
