"""Images in tar files: what is a sample, what its label is, and what is refused."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from raybd.datasets.webdataset import Webdataset
from raybd.reading.entry import entry_for
from raybd.types.errors import UserError
from tests.image_files import png


def archive(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, cast(Any, mode)) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def numbered(values: range, **more: bytes) -> dict[str, bytes]:
    """Samples whose pixels are their number, labelled odd (1) or even (0)."""
    files = {}
    for value in values:
        files[f"{value:03d}.png"] = png(value)
        files[f"{value:03d}.cls"] = str(value % 2).encode()
    return files | more


def pixels(dataset: Webdataset) -> dict[str, tuple[int, str]]:
    """The first pixel and the class of each image, by its name."""
    source = dataset.source()
    found = {}
    for pool, y_N in (("train", source.train_y_N), ("test", source.test_y_N)):
        rows = torch.arange(len(y_N))
        assert source.names is not None
        images = source.read(cast(Any, pool), rows)
        names = source.names(cast(Any, pool), rows).to_pylist()
        for name, x_CHW, label in zip(names, images, y_N.tolist(), strict=True):
            found[name] = (int(x_CHW[0, 0, 0]), source.class_names[label])
    return found


def test_each_image_has_its_own_pixels_and_label_over_several_shards(tmp_path: Path) -> None:
    archive(tmp_path / "train-000000.tar", numbered(range(6)))
    archive(tmp_path / "train-000001.tar", numbered(range(6, 10)))
    archive(tmp_path / "val-000000.tar", numbered(range(20, 24)))
    entry = entry_for(tmp_path)
    assert entry == {"kind": "webdataset", "path": str(tmp_path)}
    shard = {
        **dict.fromkeys(range(6), "train-000000"),
        **dict.fromkeys(range(6, 10), "train-000001"),
    }
    shard |= dict.fromkeys(range(20, 24), "val-000000")
    wanted = {f"{s}.tar/{v:03d}.png": (v, str(v % 2)) for v, s in shard.items()}
    found = pixels(Webdataset(path=tmp_path))
    assert found == wanted
    rows = Webdataset(path=tmp_path).source()
    assert len(rows.train_y_N) == 10
    assert len(rows.test_y_N) == 4


def test_one_file_is_a_data_set_of_which_a_part_is_held_out(tmp_path: Path) -> None:
    path = archive(tmp_path / "all.tar", numbered(range(20)))
    assert entry_for(path) == {"kind": "webdataset", "path": str(path)}
    source = Webdataset(path=path, test_share=0.2).source()
    assert len(source.train_y_N) == 16
    assert len(source.test_y_N) == 4


def test_labels_may_be_names_or_stand_in_a_json_file(tmp_path: Path) -> None:
    files = {}
    for value in range(8):
        # The same key in two folders is two samples.
        sample = f"part{value % 2}/{value // 2}"
        files[f"{sample}.seg.png"] = png(200)
        files[f"{sample}.jpg.png"] = png(201)
        files[f"{sample}.png"] = png(value)
        label = {"label": "cat" if value % 2 else "dog", "url": "x"}
        files[f"{sample}.json"] = json.dumps(label).encode()
    files["part0/._0.png"] = png(250)
    files["README"] = b"no sample"
    dataset = Webdataset(path=archive(tmp_path / "a.tar", files))
    # In an order that does not depend on that of the samples.
    assert dataset.source().class_names == ("cat", "dog")
    found = pixels(dataset)
    assert sorted(found.values()) == [(v, "cat" if v % 2 else "dog") for v in range(8)]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"a.png": png(1)}, r"a\.png: it has no label beside it"),
        ({"a.png": png(1), "a.json": b'{"name": 1}'}, "its JSON file names no label"),
        ({"a.png": png(1), "a.json": b"[" * 5000}, "its JSON file names no label"),
        ({"a.png": png(1), "a.cls": b"99999999"}, "classes; there can be"),
        ({"a.png": png(1), "a.cls": b"\x1b[31m"}, "can't be the name of a class"),
        ({"a.txt": b"nothing"}, "no images in it"),
    ],
)
def test_what_is_no_sample_is_named(tmp_path: Path, files: dict[str, bytes], said: str) -> None:
    path = archive(tmp_path / "a.tar", files)
    with pytest.raises(UserError, match=said):
        Webdataset(path=path).source()


def test_a_damaged_or_compressed_archive_is_refused_by_name(tmp_path: Path) -> None:
    whole = archive(tmp_path / "whole.tar", numbered(range(8))).read_bytes()
    # In the middle of the last image: its header is there, and its end is not.
    cut = tmp_path / "cut.tar"
    cut.write_bytes(whole[: whole.rindex(b"IEND") - 4])
    packed = archive(tmp_path / "packed.tar", numbered(range(8)), "w:gz")
    (tmp_path / "junk.tar").write_bytes(b"\x00\x01" * 4000)
    for path in (cut, packed, tmp_path / "junk.tar"):
        with pytest.raises(UserError, match=f"{path.name}: it can't be read as a tar file"):
            Webdataset(path=path).source()


def test_a_link_is_no_image(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.tar", numbered(range(8)))
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(99))
    with tarfile.open(path, "a") as tar:
        member = tarfile.TarInfo("link.png")
        member.type = tarfile.SYMTYPE
        member.linkname = str(secret)
        tar.addfile(member)
    assert len(pixels(Webdataset(path=path))) == 8


def test_the_key_changes_with_an_image_and_not_with_the_place(tmp_path: Path) -> None:
    one = archive(tmp_path / "one" / "a.tar", numbered(range(10)))
    other = archive(tmp_path / "other" / "a.tar", numbered(range(10)))
    first = Webdataset(path=one).source().fingerprint
    assert Webdataset(path=other).source().fingerprint == first
    archive(other, {**numbered(range(10)), "003.png": png(77)})
    assert Webdataset(path=other).source().fingerprint != first
    assert pixels(Webdataset(path=other))["a.tar/003.png"] == (77, "1")


def test_an_image_that_cannot_be_read_is_named_and_may_be_left_out(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.tar", {**numbered(range(20)), "005.png": b"no picture"})
    with pytest.raises(UserError, match=r"a\.tar/005\.png: not a readable image"):
        Webdataset(path=path, size=8).load()
    kept = Webdataset(path=path, unreadable="skip").source()
    assert len(kept.train_y_N) + len(kept.test_y_N) == 19
    assert "005.png" in " ".join(kept.notes)
