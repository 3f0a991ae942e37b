"""The store: whole files or none, and checks that find damage, on disks and object storage."""

import json
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from raybd.results.artifacts import Damaged
from raybd.results.manifests import manifest_text
from raybd.results.parquet import as_parquet
from raybd.results.schemas import CELLS, SCHEMA_VERSION, SCORES
from raybd.results.store import Store
from raybd.types.errors import UserError


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "local":
        return Store(str(tmp_path / "results"))
    return Store(f"{request.getfixturevalue('s3_url')}/{tmp_path.name}")


def row(cell: str = "c1", **more: Any) -> dict[str, Any]:
    empty = dict.fromkeys(CELLS.names)
    names = dict.fromkeys(
        ("experiment", "dataset", "attack", "trainer", "network", "defense", "defense_role"), "x"
    )
    return (
        empty
        | names
        | {"cell": cell, "status": "ok", "seed": 0, "finished_at": datetime.now(UTC)}
        | more
    )


def scores(cell: str, n: int) -> dict[str, Any]:
    text = {
        "cell": cell,
        "experiment": "x",
        "sweep": None,
        "trial": None,
        "trainer": "x",
        "pool": "train",
        "role": "clean",
    }
    numbers = {name: list(range(n)) for name in ("index", "label", "true_label")}
    return {
        **{name: [value] * n for name, value in text.items()},
        **numbers,
        "seed": [0] * n,
        "score": [0.5] * n,
        "threshold": [1.0] * n,
        "flagged": [False] * n,
        "path": [f"train.parquet:{row}" for row in range(n)],
        "label_name": ["a"] * n,
        "true_label_name": ["a"] * n,
    }


def test_an_artefact_comes_back_as_it_was(store: Store) -> None:
    tensors = {"a": torch.arange(6).view(2, 3), "b": torch.rand(4)}
    store.save("victim", "k", tensors | {"a_view": tensors["a"][1:]}, {"seconds": 1.5})
    loaded = store.load("victim", "k")
    assert torch.equal(loaded.tensors["a"], tensors["a"])
    assert torch.equal(loaded.tensors["a_view"], tensors["a"][1:])
    assert loaded.manifest["seconds"] == 1.5
    assert loaded.manifest["schema"] == SCHEMA_VERSION
    assert store.state("victim", "k") == "ok"


def test_a_tampered_artefact_is_named_and_set_aside(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    store.save("victim", "k", {"a": torch.zeros(8)}, {})
    path = "artifacts/victim/k/tensors.safetensors"
    data = bytearray(store.read(path))
    data[-1] ^= 1
    store.write(path, bytes(data))
    with pytest.raises(Damaged, match="artifacts/victim/k"):
        store.load("victim", "k")
    assert "artifacts/victim/k" in caplog.text
    assert store.state("victim", "k") == "missing"
    assert store.files("damaged/artifacts/victim/*/*")


def test_a_local_check_finds_a_changed_byte(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.save("victim", "k", {"a": torch.zeros(8)}, {})
    path = tmp_path / "artifacts/victim/k/tensors.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    assert store.state("victim", "k") == "damaged"
    assert store.state("victim", "k") == "missing"


@pytest.mark.parametrize("fault", ["truncated", "no tensors", "bad manifest"])
def test_any_damage_makes_an_artefact_damaged_once(store: Store, fault: str) -> None:
    store.save("score", "k", {"a": torch.zeros(8)}, {})
    folder = "artifacts/score/k"
    if fault == "truncated":
        store.write(
            f"{folder}/tensors.safetensors", store.read(f"{folder}/tensors.safetensors")[:-5]
        )
    elif fault == "no tensors":
        store.remove(f"{folder}/tensors.safetensors")
    else:
        store.write(f"{folder}/manifest.json", b"{")
    assert store.state("score", "k") == "damaged"
    assert store.state("score", "k") == "missing"


def test_without_a_manifest_there_is_no_artefact(store: Store) -> None:
    store.write("artifacts/victim/k/tensors.safetensors", b"half of a write that was killed")
    assert store.state("victim", "k") == "missing"
    with pytest.raises(FileNotFoundError):
        store.load("victim", "k")


def test_a_newer_schema_is_refused_and_kept(store: Store) -> None:
    store.save("victim", "k", {"a": torch.zeros(1)}, {})
    path = "artifacts/victim/k/manifest.json"
    newer = json.loads(store.read(path)) | {"schema": SCHEMA_VERSION + 1}
    del newer["checksum"]
    store.write(path, manifest_text(newer))
    with pytest.raises(UserError, match="newer raybd"):
        store.load("victim", "k")
    assert store.exists(path)


def test_scores_come_back_through_the_api_and_through_plain_pandas(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write_scores("c1", "digits", "badnets", "strip", scores("c1", 5))
    store.write_scores("c2", "digits", "none", "strip", scores("c2", 3))
    assert len(store.scores()) == 8
    assert set(store.scores(attack="badnets")["cell"]) == {"c1"}
    plain = pd.read_parquet(
        tmp_path / "scores", filters=[("attack", "==", "badnets"), ("defense", "==", "strip")]
    )
    assert len(plain) == 5
    assert plain["score"].dtype == "float32"
    assert {"dataset", "attack", "defense"} <= set(plain.columns)


def test_scores_on_object_storage(store: Store) -> None:
    store.write_scores("c1", "digits", "badnets", "strip", scores("c1", 5))
    assert len(store.scores(defense="strip")) == 5
    assert store.scores(defense="other").empty


def test_a_repeated_write_replaces(store: Store) -> None:
    for _ in range(2):
        store.write_scores("c1", "digits", "badnets", "strip", scores("c1", 5))
        store.write_cell(row("c1"))
    assert len(store.scores()) == 5
    assert len(store.cells()) == 1


def test_every_file_carries_the_schema_version(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write_cell(row("c1"))
    assert (
        pq.read_schema(tmp_path / "cells/c1.parquet").metadata[b"raybd.schema"]
        == str(SCHEMA_VERSION).encode()
    )


def test_missing_numbers_are_null(store: Store) -> None:
    store.write_cell(row("c1", auroc=None, fpr=0.25))
    frame = store.cells()
    assert frame["auroc"].isna().all()
    assert frame["fpr"].tolist() == [0.25]


@pytest.mark.parametrize("file", ["scores", "cells"])
def test_a_truncated_table_is_named_set_aside_and_missing(
    store: Store, file: str, caplog: pytest.LogCaptureFixture
) -> None:
    store.write_scores("c1", "x", "x", "x", scores("c1", 50))
    store.write_cell(row("c1", n_scores=50))
    assert store.cell("c1") is not None
    path = store.files("scores/*/*/*/c1.parquet")[0] if file == "scores" else "cells/c1.parquet"
    store.write(path, store.read(path)[:-20])
    assert store.cell("c1") is None
    assert path in caplog.text
    assert not store.exists(path)


def test_missing_score_rows_make_a_cell_unfinished(store: Store) -> None:
    store.write_cell(row("c1", n_scores=50))
    assert store.cell("c1") is None
    store.write_scores("c1", "x", "x", "x", scores("c1", 49))
    assert store.cell("c1") is None


def test_readers_never_see_half_a_file(tmp_path: Path) -> None:
    store, stop, seen = Store(str(tmp_path)), threading.Event(), set()

    def read() -> None:
        while not stop.is_set():
            data = store.read("f")
            seen.add((len(data), len(set(data))))

    store.write("f", b"a" * 200_000)
    reader = threading.Thread(target=read)
    reader.start()
    for letter in b"bcdefgh" * 20:
        store.write("f", bytes([letter]) * 200_000)
    stop.set()
    reader.join()
    assert seen == {(200_000, 1)}
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_a_store_that_can_not_be_written_is_an_error_with_exit_code_3(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match="can't be written") as caught:
        Store(str(tmp_path / "file" / "results")).check_writable()
    assert caught.value.exit_code == 3


def test_a_bucket_that_does_not_exist_is_an_error_with_exit_code_3(s3_url: str) -> None:
    with pytest.raises(UserError, match="can't be written") as caught:
        Store("s3://no-such-bucket-here/results").check_writable()
    assert caught.value.exit_code == 3


def test_an_unknown_column_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no column 'atack'"):
        Store(str(tmp_path)).scores(atack="badnets")


def test_scores_of_a_data_set_without_names_and_of_an_older_file_are_read_as_null(
    tmp_path: Path,
) -> None:
    store = Store(str(tmp_path / "results"))
    names = ("path", "label_name", "true_label_name", "p_value")
    older = {name: values for name, values in scores("c1", 3).items() if name not in names}
    store.write_scores("c1", "x", "x", "x", older)
    schema = pa.schema([field for field in SCORES if field.name not in names], SCORES.metadata)
    table = pa.table({name: {**older, "cell": ["c2"] * 3}[name] for name in schema.names}, schema)
    path = "scores/dataset=x/attack=x/defense=x/c2.parquet"
    store.write(path, as_parquet(table))

    for cell in ("c1", "c2"):
        read = store.scores(cell=cell)
        assert len(read) == 3
        assert read[list(names)].isna().all(axis=None)
