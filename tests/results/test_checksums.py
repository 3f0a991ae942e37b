"""Files that carry numbers: what was changed in them, or is not what they can hold, is found."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from raybd.engine.cluster.doctor.store import store_findings
from raybd.results.artifacts import Damaged
from raybd.results.schemas import TRIALS
from raybd.results.store import Store
from raybd.results.validation import SCORED_ROLES
from raybd.types.data import SAMPLE_ROLES
from tests.results.test_store import row, scores

FACTS = {
    "seconds": 1.0,
    "gpu_seconds": 0.0,
    "peak_memory_bytes": 1,
    "method": {"kind": "x"},
    "network": None,
    "data": "d",
    "clean_accuracy": 0.98,
}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(str(tmp_path / "results"))
    store.write_cell(row("c1", n_scores=40, auroc=0.957))
    store.write_scores("c1", "x", "x", "x", scores("c1", 40))
    trial = {"trial": "0001", "state": "complete", "params": "{}", "auroc": 0.9}
    store.write_trial("s", dict.fromkeys(TRIALS.names) | trial)
    store.write_analysis("tac", "k", pa.table({"unit": [0, 1], "change": [0.5, 0.25]}))
    store.save("victim", "k", {"a": torch.zeros(8)}, FACTS)
    return store


def as_old(path: Path, **changed: Any) -> None:
    """Write a file as version 1 of the schema had it, with changed values."""
    if path.suffix == ".json":
        manifest = json.loads(path.read_text()) | {"schema": 1} | changed
        del manifest["checksum"]
        kept = {key: value for key, value in manifest.items() if value is not ...}
        path.write_text(json.dumps(kept))
        return
    table = pq.read_table(path)
    for name, value in changed.items():
        at = table.schema.get_field_index(name)
        if value is ...:
            table = table.remove_column(at)
        else:
            column = pa.array([value] * len(table))
            with suppress(pa.ArrowInvalid):  # of another type, which is what the test wants
                column = column.cast(table.schema.field(at).type)
            table = table.set_column(at, name, column)
    pq.write_table(table.replace_schema_metadata({"raybd.schema": "1"}), path)


PATHS = {
    "cell": "cells/c1.parquet",
    "scores": "scores/dataset=x/attack=x/defense=x/c1.parquet",
    "trial": "trials/sweep=s/0001.parquet",
    "analysis": "analysis/tool=tac/k.parquet",
    "manifest": "artifacts/victim/k/manifest.json",
}


def believed(store: Store, kind: str) -> bool:
    """Whether a reader gets the rows of a file."""
    if kind == "manifest":
        return store.state("victim", "k") == "ok"
    frames = {
        "cell": store.cells,
        "scores": store.scores,
        "trial": store.trials,
        "analysis": lambda: store.analysis("tac"),
    }
    return not frames[kind]().empty


@pytest.mark.parametrize("kind", PATHS)
def test_a_changed_byte_anywhere_is_found_and_named(
    store: Store, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = Path(store.at(PATHS[kind]))
    sound = path.read_bytes()
    steps = range(0, len(sound), max(1, len(sound) // 60))
    kept = (path.parent / "..").resolve() / "kept"
    for at in steps:
        changed = bytearray(sound)
        changed[at] ^= 0x10
        if kind == "manifest":
            tensors = path.with_name("tensors.safetensors")
            kept.write_bytes(tensors.read_bytes())
        path.write_bytes(bytes(changed))
        caplog.clear()
        was_believed = believed(store, kind)
        if kind == "manifest" and was_believed:
            # white space between two values says nothing
            assert json.loads(bytes(changed)) == json.loads(sound)
            continue
        assert not was_believed, at
        assert len(caplog.records) == 1, caplog.text
        assert path.parent.name in caplog.text
        store.write(PATHS[kind], sound)
        if kind == "manifest":
            tensors.write_bytes(kept.read_bytes())
        assert believed(store, kind)


@pytest.mark.parametrize("kind", PATHS)
def test_files_of_schema_1_have_no_checksum_and_are_read(store: Store, kind: str) -> None:
    as_old(Path(store.at(PATHS[kind])))
    assert believed(store, kind)


@pytest.mark.parametrize("kind", PATHS)
def test_a_file_that_has_lost_its_checksum_is_damaged(store: Store, kind: str) -> None:
    path = Path(store.at(PATHS[kind]))
    if kind == "manifest":
        manifest = json.loads(path.read_text())
        del manifest["checksum"]
        path.write_text(json.dumps(manifest))
    else:
        table = pq.read_table(path)
        pq.write_table(table.replace_schema_metadata({"raybd.schema": "2"}), path)
    assert not believed(store, kind)


@pytest.mark.parametrize(
    ("kind", "changed"),
    [
        ("cell", {"auroc": 1.957}),
        ("cell", {"clean_accuracy": -0.5}),
        ("cell", {"status": "oj"}),
        ("cell", {"status": None}),
        ("cell", {"auroc": ...}),
        ("cell", {"auroc": "high"}),
        ("cell", {"cell": "c2"}),
        ("cell", {"config": "{"}),
        ("cell", {"seconds": -1.0}),
        ("scores", {"role": "clear"}),
        ("scores", {"pool": "trajn"}),
        ("scores", {"score": float("nan")}),
        ("scores", {"score": 3.0}),
        ("scores", {"flagged": True}),
        ("scores", {"label": ...}),
        ("scores", {"index": -4}),
        ("trial", {"state": "completf"}),
        ("trial", {"params": "[]"}),
        ("trial", {"auroc": 2.0}),
        ("manifest", {"seconds": ...}),
        ("manifest", {"seconds": "1.0"}),
        ("manifest", {"clean_accuracy": 98}),
        ("manifest", {"method": []}),
        ("manifest", {"key": "other"}),
        ("manifest", {"schema": "1"}),
        ("manifest", {"sha256": 0}),
    ],
)
def test_values_that_can_not_be_are_damage_in_files_without_a_checksum(
    store: Store, kind: str, changed: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    as_old(Path(store.at(PATHS[kind])), **changed)
    assert not believed(store, kind)
    assert len(caplog.records) == 1
    assert "set aside as damaged/" in caplog.text


@pytest.mark.parametrize("text", ["[]", "3", "null", '{"schema": 1', "{}", "[" * 100_000])
def test_a_manifest_that_is_no_manifest_is_damaged(store: Store, text: str) -> None:
    Path(store.at(PATHS["manifest"])).write_text(text)
    with pytest.raises(Damaged):
        store.manifest("victim", "k")
    assert store.state("victim", "k") == "missing"


def test_a_manifest_under_the_key_of_another_artefact_is_damaged(store: Store) -> None:
    for name in ("tensors.safetensors", "manifest.json"):
        store.write(f"artifacts/victim/other/{name}", store.read(f"artifacts/victim/k/{name}"))
    assert store.state("victim", "other") == "damaged"
    assert store.state("victim", "k") == "ok"


def test_damaged_scores_make_their_cell_unfinished_although_their_number_is_right(
    store: Store,
) -> None:
    path = Path(store.at(PATHS["scores"]))
    data = bytearray(path.read_bytes())
    data[60] ^= 1
    path.write_bytes(bytes(data))
    assert store.cell("c1") is None
    assert not store.rows(["c1"])


def test_the_doctor_names_damage_in_every_kind_of_file_and_goes_on_to_the_end(
    store: Store,
) -> None:
    for path in PATHS.values():
        store.write(path, store.read(path)[:-9])
    found = {finding.check: finding for finding in store_findings(store.url)}
    assert found["integrity"].found.endswith("checked, 5 damaged")
    assert not found["integrity"].ok
    found = {finding.check: finding for finding in store_findings(store.url)}
    assert found["integrity"].ok


def test_files_with_a_checksum_are_plain_parquet(store: Store) -> None:
    assert len(pd.read_parquet(store.at("scores"), filters=[("attack", "==", "x")])) == 40
    assert pd.read_parquet(store.at("cells"))["auroc"].tolist() == [0.957]
    assert pd.read_parquet(store.at("trials"))["sweep"].tolist() == ["s"]
    assert pd.read_parquet(store.at("analysis"))["change"].tolist() == [0.5, 0.25]


def test_the_roles_are_those_of_the_data() -> None:
    assert SCORED_ROLES == SAMPLE_ROLES
