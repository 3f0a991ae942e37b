"""Images and files that somebody else made are refused fast, with a line that names the place."""

import io
import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from raybd.datasets.image_folder import ImageFolder
from raybd.datasets.parquet import Parquet
from raybd.types.errors import UserError
from tests.hostile import refusal
from tests.image_files import png, write_parquet


def encoded(kind: str, side: int = 8, **options: Any) -> bytes:
    buffer = io.BytesIO()
    pixels = np.arange(side * side * 3, dtype=np.uint8).reshape(side, side, 3)
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def patched(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


def png_of(width: int, height: int) -> bytes:
    """A PNG that says its size, and ends after a few pixels."""

    def chunk(name: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def tiff_of(width: int, height: int) -> bytes:
    """A TIFF of one strip that says its size."""
    tags = [(256, width), (257, height), (258, 8), (259, 1), (262, 1), (273, 8), (278, height)]
    tags.append((279, 4))
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(8)


def jpeg_of(side: int) -> bytes:
    data = encoded("JPEG")
    return patched(data, data.index(b"\xff\xc0") + 5, struct.pack(">HH", side, side))


def gif_of(side: int) -> bytes:
    data = encoded("GIF")
    inner = patched(data, data.index(b"\x2c") + 5, struct.pack("<HH", side, side))
    return patched(inner, 6, struct.pack("<HH", side, side))


def webp_of(side: int) -> bytes:
    """Of the lossless kind, whose header has 14 bits for each side."""
    data = encoded("WEBP", lossless=True)
    return patched(data, data.index(b"\x2f") + 1, struct.pack("<I", (side - 1) | (side - 1) << 14))


TOO_LARGE = {
    "png": png_of(60_000, 60_000),
    "png beyond Pillow's warning": png_of(10_000, 10_000),
    "png of the largest sides": png_of(2**31 - 1, 2**31 - 1),
    "jpeg": jpeg_of(65_535),
    "gif": gif_of(65_535),
    "webp": webp_of(16_383),
    "tiff": tiff_of(2**31 - 1, 2**31 - 1),
    "bmp": patched(encoded("BMP"), 18, struct.pack("<ii", 60_000, 60_000)),
}


@pytest.mark.parametrize("kind", TOO_LARGE)
@pytest.mark.parametrize("size", [None, 32])
def test_an_image_of_billions_of_pixels_is_refused(
    tmp_path: Path, kind: str, size: int | None
) -> None:
    folder = write_parquet(tmp_path, [png(0), png(1), TOO_LARGE[kind], png(3)], [0, 1, 0, 1])
    said = refusal(lambda: Parquet(path=folder, size=size, clean=1).load())
    assert f"{folder}/train.parquet, row 2: " in said
    # WebP is checked by its own library first.
    assert "pixels" in said or kind == "webp"


def test_an_image_at_the_bound_is_read_within_the_memory(tmp_path: Path) -> None:
    large = io.BytesIO()
    Image.new("RGB", (8192, 4096), (7, 8, 9)).save(large, "PNG")
    folder = write_parquet(tmp_path, [png(0), png(1), large.getvalue(), png(3)], [0, 1, 0, 1])

    def load() -> None:
        dataset = Parquet(path=folder, size=8, clean=1).load()
        assert len(dataset.train) == 3
        raise UserError("read", "")

    # It is no error: only its memory is bounded.
    assert refusal(load, max_seconds=15) == "read"


def test_images_that_together_exceed_the_memory_are_refused(tmp_path: Path) -> None:
    # Two hundred thousand small ones, and a side to which they are enlarged: 10 TB.
    folder = tmp_path / "many"
    rows = pa.array([{"bytes": png(1)}], pa.struct({"bytes": pa.binary()})).take(
        pa.array(np.zeros(200_000, np.int64))
    )
    labels = pa.array(np.arange(200_000) % 2)
    folder.mkdir()
    table = pa.table({"img": rows, "label": labels})
    pq.write_table(table, folder / "train.parquet", row_group_size=1000)
    pq.write_table(table[:10], folder / "test.parquet")
    said = refusal(lambda: Parquet(path=folder, size=4096, clean=1).load())
    assert "images of 4096 x 4096 pixels take" in said
    assert "train.parquet, row 0: " in said


@pytest.mark.parametrize(
    "data",
    [
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n",
        b"GIF89a" + bytes(4),
        encoded("WEBP")[:40],
        encoded("JPEG")[:200],
        encoded("TIFF")[:90],
        encoded("BMP")[:60],
    ],
    ids=["eps", "gif", "webp", "jpeg", "tiff", "bmp"],
)
def test_a_broken_image_is_named_and_nothing_of_the_inside(tmp_path: Path, data: bytes) -> None:
    folder = write_parquet(tmp_path, [png(0), data, png(2), png(3)], [0, 1, 0, 1])
    said = refusal(lambda: Parquet(path=folder, size=8, clean=1).load())
    assert f"{folder}/train.parquet, row 1: not a readable image: " in said


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_an_image_with_random_damage_is_read_or_named(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(0)
    good = encoded(kind, 16)
    refusals = 0
    for number in range(60):
        data = bytearray(good)
        for at in rng.integers(0, len(good), rng.integers(1, 6)):
            data[at] = rng.integers(256)
        folder = write_parquet(tmp_path / f"{number}", [bytes(data), png(1)] * 2, [0, 1] * 2)
        try:
            Parquet(path=folder, size=8, clean=1).load()
        except UserError as error:
            refusals += 1
            assert "train.parquet, row " in error.what
            assert "object at 0x" not in error.what
    assert refusals


SHOWS_WARNINGS = """
import sys
from raybd.reading.decode import Encoded, decode

data = open(sys.argv[1], "rb").read()
print(decode([[Encoded(0, "it", data)]], 1, None).shape)
"""


def test_what_pillow_says_of_damaged_tags_is_not_shown(tmp_path: Path) -> None:
    data = encoded("TIFF", software="x" * 100)
    entry = data.index(struct.pack("<HH", 305, 2), struct.unpack("<I", data[4:8])[0])
    # A text that begins in the file, and ends far behind it.
    (tmp_path / "x.tiff").write_bytes(patched(data, entry + 4, struct.pack("<I", 10**6)))
    command = [sys.executable, "-W", "default", "-c", SHOWS_WARNINGS, str(tmp_path / "x.tiff")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout == "torch.Size([1, 3, 8, 8])\n", done.stderr
    assert "PIL" not in done.stderr
    assert "Tag" not in done.stderr


def labelled(folder: Path, labels: Any, **more: Any) -> Path:
    return write_parquet(folder, [png(0)] * len(labels), labels, **more)


LABELS: dict[str, tuple[Any, str]] = {
    "negative": ([0, 1, -1], "-1 to 1"),
    "not numbers": ([0.0, float("nan"), 1.0], "holds double"),
    "one huge": ([0, 1, 2**40], "1099511627777 classes"),
    "beyond 63 bits": (pa.array([0, 1, 2**64 - 1], pa.uint64()), "more than 63 bits"),
    "nulls": ([0, 1, None], "1 nulls"),
    "texts of no name": (["a", "b\n", "c"], "can't be the name of a class"),
    "lists": ([[0], [1], [0]], "holds list"),
}


@pytest.mark.parametrize("what", LABELS)
def test_labels_that_are_no_classes_are_refused(tmp_path: Path, what: str) -> None:
    labels, text = LABELS[what]
    folder = labelled(tmp_path, labels)
    said = refusal(lambda: Parquet(path=folder).source())
    assert f"{folder}/train.parquet: column 'label'" in said
    assert text in said


@pytest.mark.parametrize(
    "names",
    [
        ["a", "b\nerror: all is well"],
        ["a", "\x1b[2J"],
        ["a", "x" * 100_000],
        ["a", 7],
        "abc",
        {"a": "b"},
        [["a"], ["b"]],
        [str(name) for name in range(200_000)],
    ],
    ids=["line end", "escape", "long", "number", "text", "mapping", "lists", "many"],
)
def test_class_names_that_are_none_are_refused(tmp_path: Path, names: Any) -> None:
    folder = labelled(tmp_path, [0, 1, 0], names=names)
    assert "train.parquet" in refusal(lambda: Parquet(path=folder).source())


def test_class_names_of_markup_and_paths_are_only_text(tmp_path: Path) -> None:
    names = ["<script>alert(1)</script>", "../../etc"]
    folder = labelled(tmp_path, [0, 1, 0], names=names)
    assert Parquet(path=folder).source().class_names == tuple(names)


@pytest.mark.parametrize("metadata", ["[" * 100_000, "not JSON", "[1]", json.dumps({"info": 3})])
def test_metadata_of_another_program_is_refused(tmp_path: Path, metadata: str) -> None:
    folder = labelled(tmp_path, [0, 1, 0])
    for part in ("train", "test"):
        table = pq.read_table(folder / f"{part}.parquet")
        table = table.replace_schema_metadata({"huggingface": metadata})
        pq.write_table(table, folder / f"{part}.parquet")
    assert "no list of texts" in refusal(lambda: Parquet(path=folder).source())


def columns(image: pa.Array, names: tuple[str, ...] = ("img", "label")) -> pa.Table:
    return pa.table([image, pa.array([0, 1]), *[pa.array([0, 1])] * (len(names) - 2)], names)


WRONG = {
    "images of numbers": columns(pa.array([{"bytes": 5}, {"bytes": 6}])),
    "images of texts": columns(pa.array([{"bytes": "a"}, {"bytes": "b"}])),
    "images of lists": columns(pa.array([[b"a"], [b"b"]])),
    "labels twice": columns(pa.array([{"bytes": b"a"}] * 2), ("img", "label", "label")),
    "no labels": columns(pa.array([{"bytes": b"a"}] * 2), ("img", "other")),
}


@pytest.mark.parametrize("what", WRONG)
def test_columns_of_other_types_are_refused(tmp_path: Path, what: str) -> None:
    for part in ("train", "test"):
        pq.write_table(WRONG[what], tmp_path / f"{part}.parquet")
    assert "train.parquet: " in refusal(lambda: Parquet(path=tmp_path, clean=1).load())


def test_a_few_bytes_that_stand_for_many_rows_are_refused(tmp_path: Path) -> None:
    count = 2**25
    table = pa.table({"label": pa.array(np.zeros(count, np.int8))})
    rows = pa.array([{"bytes": b""}], pa.struct({"bytes": pa.binary()}))
    table = table.append_column("img", rows.take(pa.array(np.zeros(count, int))))
    for part in ("train", "test"):
        pq.write_table(table, tmp_path / f"{part}.parquet")
    assert f"{count} rows" in refusal(lambda: Parquet(path=tmp_path).source())


def folder_of(root: Path) -> Path:
    for part in ("train", "test"):
        for name in ("a", "b"):
            place = root / part / name
            place.mkdir(parents=True)
            for number in range(3):
                (place / f"{number}.png").write_bytes(png(number))
    return root


@pytest.mark.timeout(30)
@pytest.mark.parametrize("what", ["pipe", "device", "dangling link", "sparse file"])
def test_what_is_no_image_file_is_refused(tmp_path: Path, what: str) -> None:
    path = folder_of(tmp_path) / "train" / "a" / "x.png"
    if what == "pipe":
        os.mkfifo(path)
    elif what == "sparse file":
        with path.open("wb") as file:
            file.truncate(2**40)
    else:
        path.symlink_to("/dev/zero" if what == "device" else tmp_path / "nothing")
    said = refusal(lambda: ImageFolder(path=tmp_path, clean=1).load())
    assert f"{path}: can't be read: " in said


def test_a_folder_whose_name_would_write_to_the_console_is_refused(tmp_path: Path) -> None:
    root = folder_of(tmp_path)
    (root / "train" / "a").rename(root / "train" / "a\n\x1b[2J")
    assert "can't be the name of a class" in refusal(lambda: ImageFolder(path=root).load())


def test_a_file_name_of_any_bytes_is_read(tmp_path: Path) -> None:
    root = folder_of(tmp_path)
    name = os.fsencode(root / "train" / "a") + b"/\xff\n<script>.png"
    Path(os.fsdecode(name)).write_bytes(png(9))
    assert len(ImageFolder(path=root, clean=1).load().train) == 6
