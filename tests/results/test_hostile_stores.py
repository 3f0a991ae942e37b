"""Stores that somebody else wrote: whatever they hold is refused fast, with one line that names it.

All checksums are right: they tell who was careless, and not who is honest.
"""

import hashlib
import json
import logging
import mmap
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from raybd.cells.loading import load_poisoned, load_victim
from raybd.cells.run import run_cell
from raybd.cells.stage import VictimStage
from raybd.engine.cluster.doctor.store import store_findings
from raybd.engine.tune.journal import Journal
from raybd.plan.file import parse
from raybd.plan.todo import make_plan
from raybd.report.sweeps.find import find_sweeps
from raybd.results import lease, parquet
from raybd.results.artifacts import Damaged, Foreign, TooLarge
from raybd.results.manifests import manifest_text
from raybd.results.provenance import peak_memory_bytes, reset_peak_memory
from raybd.results.schemas import CELLS, SCORES, TRIALS
from raybd.results.store import Store
from raybd.sweeps.file import parse_sweep
from raybd.sweeps.identity import check_same_sweep
from raybd.types.errors import UserError
from tests.hostile import refusal
from tests.report.test_sweeps import RAW
from tests.results.test_checksums import FACTS
from tests.results.test_store import row, scores
from tests.tiny_cells import TINY, one_cell

FOLDER = "artifacts/victim/k"
MIB = 2**20


def quietly(call: Callable[[], object]) -> Callable[[], object]:
    """The same call, whose damaged file is a UserError: `refusal` then checks time and memory."""

    def called() -> object:
        logging.disable()
        try:
            return call()
        except Damaged as error:
            raise UserError(str(error), "") from error

    return called


def sealed(data: bytes) -> bytes:
    """A Parquet file with the checksum that its bytes have."""
    place = parquet._place_of_checksum(data)
    assert place is not None
    return data[:place] + parquet._digest(data, place) + data[place + 64 :]


# --- artefacts ---------------------------------------------------------------------------------


def with_tensors(store: Store, content: bytes, **facts: Any) -> None:
    """Write an artefact of any bytes, under the manifest that fits them."""
    manifest = {**FACTS, "schema": 2, "stage": "victim", "key": "k", "bytes": len(content)}
    manifest |= {"sha256": hashlib.sha256(content).hexdigest(), **facts}
    store.write(f"{FOLDER}/tensors.safetensors", content)
    store.write(f"{FOLDER}/manifest.json", manifest_text(manifest))


def safetensors(header: Any, body: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def tensor(kind: str, shape: list[int], end: int) -> dict[str, Any]:
    return {"a": {"dtype": kind, "shape": shape, "data_offsets": [0, end]}}


NO_TENSORS = {
    "nothing": b"",
    "no header": b"\0" * 4,
    "a header of exabytes": safetensors({}, length=2**62),
    "a header of more than there is": safetensors({}, length=10_000),
    "a header of 90 MB": safetensors(b'{"a":"' + b"x" * 90_000_000 + b'"}'),
    "a tensor of terabytes": safetensors(tensor("F32", [2**40], 2**42)),
    "a tensor beyond all numbers": safetensors(tensor("F32", [2**62, 2**62], 0)),
    "a negative shape": safetensors(tensor("F32", [-1], 4), b"1234"),
    "numbers of an unknown kind": safetensors(tensor("X7", [1], 4), b"1234"),
    "numbers that torch lacks": safetensors(tensor("F4", [8], 4), b"1234"),
    "a list": safetensors([1, 2, 3]),
    "deep JSON": safetensors(b"[" * 100_000),
    "a pickle": b"\x80\x04\x95" + b"c" * 100,
}


@pytest.mark.parametrize("what", NO_TENSORS)
def test_tensors_that_are_none_are_set_aside(tmp_path: Path, what: str) -> None:
    store = Store(str(tmp_path))
    with_tensors(store, NO_TENSORS[what])
    assert FOLDER in refusal(quietly(lambda: store.load("victim", "k")))
    assert not store.exists(FOLDER)
    assert store.files("damaged/artifacts/victim/*")


def test_tensors_are_not_read_if_they_have_another_size(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with_tensors(store, safetensors(tensor("F32", [1], 4), b"1234"))
    with Path(store.at(f"{FOLDER}/tensors.safetensors")).open("r+b") as file:
        file.truncate(2**40)
    assert FOLDER in refusal(quietly(lambda: store.load("victim", "k")))


def test_a_terabyte_that_the_manifest_states_is_not_read(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with_tensors(store, safetensors({}), bytes=2**40)
    with Path(store.at(f"{FOLDER}/tensors.safetensors")).open("r+b") as file:
        file.truncate(2**40)
    for call in (store.load, store.state, store.manifest):
        assert f"states {2**40} bytes" in refusal(lambda call=call: call("victim", "k"))
    # It may be sound on a larger machine, and stays where it is.
    assert store.exists(f"{FOLDER}/manifest.json")
    with pytest.raises(TooLarge):
        store.load("victim", "k")
    said = {finding.check: finding.found for finding in store_findings(store.url)}
    assert f"not checked: {store.url}/{FOLDER}: states {2**40} bytes" in said["integrity"]


def test_a_manifest_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with_tensors(store, safetensors({}))
    with Path(store.at(f"{FOLDER}/manifest.json")).open("r+b") as file:
        file.truncate(2**30)
    assert FOLDER in refusal(quietly(lambda: store.load("victim", "k")))


def test_a_tensor_that_is_not_there_is_named(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with_tensors(store, safetensors(tensor("F32", [1], 4), b"1234"))
    tensors = store.load("victim", "k").tensors
    assert tensors["a"].shape == (1,)
    with pytest.raises(Foreign, match=f"{FOLDER}: it has no tensor 'score_N'"):
        tensors["score_N"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Any]:
    store = Store(str(tmp_path_factory.mktemp("finished")))
    cell = one_cell(removal=False)
    run_cell(cell, store)
    return store, cell


def changed(
    store: Store, stage: Any, folder: Path, change: Callable[[dict[str, Tensor]], Any], **facts: Any
) -> Store:
    """A store with one artefact of another one, changed and stored under the same key."""
    found = store.load(stage.name, stage.key)
    tensors = dict(found.tensors)
    change(tensors)
    other = Store(str(folder))
    other.save(stage.name, stage.key, tensors, {**found.manifest, **facts})
    return other


WEIGHTS: dict[str, tuple[Callable[[dict[str, Tensor]], Any], str]] = {
    "missing": (lambda t: t.pop("victim.head.bias"), "lacks the weights 'head.bias'"),
    "none at all": (lambda t: t.clear(), "lacks the weights"),
    "unknown": (lambda t: t.update({"victim.x\n\x1b[2J": torch.zeros(1)}), "has no weights"),
    "other shapes": (
        lambda t: t.update({"victim.head.bias": torch.zeros(3, 5)}),
        "'head.bias' have the shape [3, 5] instead of [10]",
    ),
    "whole numbers": (
        lambda t: t.update({"victim.head.bias": torch.zeros(10, dtype=torch.int64)}),
        "'head.bias' are torch.int64",
    ),
}


@pytest.mark.parametrize("what", WEIGHTS)
def test_weights_of_another_network_are_refused(
    finished: tuple[Store, Any], tmp_path: Path, what: str
) -> None:
    store, cell = finished
    change, text = WEIGHTS[what]
    other = changed(store, cell.victim, tmp_path, change)
    assert text in refusal(lambda: load_victim(cell.victim, other))


@pytest.mark.parametrize(
    "facts",
    [
        {"num_classes": 10**12},
        {"num_classes": 0},
        {"num_classes": "10"},
        {"num_classes": None},
        {"image_size": 10**9},
        {"image_size": 1.5},
    ],
)
def test_no_victim_is_built_for_numbers_that_can_not_be(
    finished: tuple[Store, Any], tmp_path: Path, facts: dict[str, Any]
) -> None:
    store, cell = finished
    assert isinstance(cell.victim, VictimStage)
    other = changed(store, cell.victim, tmp_path, lambda _: None, **facts)
    assert f"{next(iter(facts))} can't be" in refusal(lambda: load_victim(cell.victim, other))


OVERLAYS: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "no images": lambda t: t.pop("x_MCHW"),
    "fewer images": lambda t: t.update(x_MCHW=t["x_MCHW"][1:].clone()),
    "images of floats": lambda t: t.update(x_MCHW=t["x_MCHW"].float()),
    "flat images": lambda t: t.update(x_MCHW=t["x_MCHW"].flatten(1)),
    "rows of floats": lambda t: t.update(index_M=t["index_M"].float()),
    "rows before the first": lambda t: t.update(index_M=t["index_M"] - 10**6),
    "a role that no sample has": lambda t: t.update(role_M=t["role_M"] + 100),
    "labels of floats": lambda t: t.update(y_M=t["y_M"].double()),
}


@pytest.mark.parametrize("what", OVERLAYS)
def test_an_overlay_that_is_none_is_refused(
    finished: tuple[Store, Any], tmp_path: Path, what: str
) -> None:
    store, cell = finished
    stage = cell.victim.poison_stage
    other = changed(store, stage, tmp_path, OVERLAYS[what])
    assert "no raybd wrote it" in refusal(lambda: load_poisoned(stage, other))


@pytest.mark.parametrize(
    "facts",
    [
        {"method": None},
        {"method": {"kind": ["x"]}},
        {"network": "x"},
        {"seconds": "long"},
        {"seconds": float("inf")},
        {"seconds": None, "data": {}},
    ],
)
def test_a_manifest_that_says_something_else_stops_no_plan(
    tmp_path: Path, facts: dict[str, Any]
) -> None:
    store = Store(str(tmp_path))
    with_tensors(store, safetensors({}), **facts)
    cost = make_plan(parse(TINY), store).cost
    assert cost is not None and set(cost.based_on) == {"shipped"}


# --- tables ------------------------------------------------------------------------------------

SCORE_FILE = "scores/dataset=x/attack=x/defense=x/c1.parquet"


def is_refused(store: Store, path: str, read: Callable[[], Any], text: str) -> None:
    """Reading sets a file aside, in little time and memory, with one line."""

    def call() -> None:
        found: list[str] = []
        handler = logging.Handler()
        handler.emit = lambda record: found.append(record.getMessage())  # type: ignore[method-assign]
        logging.getLogger("raybd.store").addHandler(handler)
        assert len(read()) == 0
        assert len(found) == 1
        raise UserError(found[0], "")

    said = refusal(call)
    assert path in said
    assert text in said
    assert "set aside as damaged/" in said


def many_rows(schema: pa.Schema, count: int, **values: Any) -> pa.Table:
    """A table whose rows are all alike: however many there are, the file is small."""
    constant = {name: pa.array([values.get(name)], kind.type) for name, kind in named(schema)}
    rows = pa.array(np.zeros(count, np.int8))
    return pa.table({name: array.take(rows) for name, array in constant.items()}, schema=schema)


def named(schema: pa.Schema) -> list[tuple[str, pa.Field]]:
    return [(name, schema.field(name)) for name in schema.names]


def test_a_cell_has_one_row(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    table = many_rows(CELLS, 50_000, **row("c1"))
    store.write("cells/c1.parquet", parquet.as_parquet(table))
    is_refused(store, "cells/c1.parquet", store.cells, "it states 50000 rows; there can be 1")


def test_a_trial_has_one_row(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    table = many_rows(TRIALS, 50_000, trial="0001", state="complete", params="{}")
    store.write("trials/sweep=s/0001.parquet", parquet.as_parquet(table))
    is_refused(store, "trials/sweep=s/0001.parquet", store.trials, "it states 50000 rows")


def test_scores_have_as_many_rows_as_a_data_set_can_have(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    # A column alone, to be quick: the number of rows is looked at before the columns.
    flagged = pa.array(np.zeros(2**24 + 1, np.bool_))
    table = pa.table({"flagged": flagged})
    store.write(SCORE_FILE, parquet.as_parquet(table))
    assert len(store.read(SCORE_FILE)) < 100_000
    is_refused(store, SCORE_FILE, store.scores, f"it states {2**24 + 1} rows")


def test_rows_that_share_a_long_word_are_refused(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    long = pa.array(["x" * MIB], pa.string())
    words = pa.DictionaryArray.from_arrays(pa.array(np.zeros(20_000, np.int32)), long)
    # Not as a dictionary in the schema of Arrow: 20 GB when it is read.
    table = pa.table({"unit": words})
    data = parquet._encoded(table, compression="zstd", store_schema=False)
    assert len(data) < 100_000
    store.write("analysis/tool=tac/k.parquet", data)
    is_refused(
        store, "analysis/tool=tac/k.parquet", lambda: store.analysis("tac"), "the words of column"
    )


def test_words_of_few_letters_are_read_as_they_are(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    table = pa.table({"unit": ["a", "b", None, "a"] * 1000, "value": list(range(4000))})
    store.write_analysis("tac", "k", table)
    assert store.analysis_table("analysis/tool=tac/k.parquet").equals(table)
    assert list(store.analysis("tac")["unit"][:2]) == ["a", "b"]


def varint(value: int) -> bytes:
    parts = []
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def page_header(decompressed: int, compressed: int, values: int, encoding: int = 0) -> bytes:
    """Thrift's compact protocol: type, sizes, and {values, encoding, encodings of the levels}."""
    numbers = b"".join(b"\x15" + varint(2 * n) for n in (0, decompressed, compressed))
    about = b"".join(b"\x15" + varint(2 * n) for n in (values, encoding, 3, 3))
    return numbers + b"\x2c" + about + b"\0\0"


def with_page(header: bytes, body: bytes = b"") -> bytes:
    """A sound table whose first page is another one; the footer is that of the sound one."""
    numbers = np.random.default_rng(0).integers(2**62, size=40_000)
    data = parquet._encoded(pa.table({"a": numbers}), compression="zstd", use_dictionary=False)
    chunk = pq.ParquetFile(pa.BufferReader(data)).metadata.row_group(0).column(0)
    page = header + body
    assert len(page) < chunk.total_compressed_size
    at = chunk.data_page_offset
    return sealed(data[:at] + page + data[at + len(page) :])


PAGES = {
    "gigabytes in a page": page_header(2**31 - 1, 100, 40_000),
    "many empty pages": page_header(0, 0, 0) * 18_000,
    "values without bound": page_header(8, 100, 2**31 - 1),
    "values that repeat the one before": page_header(8, 100, 40_000, encoding=7),
    "a negative size": page_header(0, 0, 0)[:3] + b"\x15\x01" + page_header(0, 100, 1)[5:],
    "no end": b"\x15" + b"\xff" * 1000,
    "structs in structs": b"\x1c" * 1000,
}


@pytest.mark.parametrize("what", PAGES)
def test_pages_that_contradict_the_footer_are_refused(tmp_path: Path, what: str) -> None:
    store = Store(str(tmp_path))
    path = "analysis/tool=tac/k.parquet"
    store.write(path, with_page(PAGES[what]))
    is_refused(store, path, lambda: store.analysis("tac"), "not a readable Parquet file")


def test_a_page_that_is_decompressed_to_much_more_takes_no_memory(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    path = "analysis/tool=tac/k.parquet"
    # Anonymous memory that is only read takes none.
    size = 600 * MIB
    with mmap.mmap(-1, size) as zeros:
        body = pa.Codec("zstd").compress(pa.py_buffer(zeros), asbytes=True)
    store.write(path, with_page(page_header(size, len(body), 40_000), body))
    assert len(store.read(path)) < MIB
    reset_peak_memory()
    before = peak_memory_bytes()
    assert store.analysis("tac").empty
    assert peak_memory_bytes() < before + 100 * MIB
    assert store.files("damaged/analysis/*/*")


def test_a_footer_of_many_columns_is_not_read(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    table = pa.table({f"column {at} {'x' * 200}": pa.array([1]) for at in range(20_000)})
    store.write("analysis/tool=tac/k.parquet", parquet.as_small_parquet(table))
    is_refused(
        store, "analysis/tool=tac/k.parquet", lambda: store.analysis("tac"), "its footer states"
    )


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], ["a", "a"])
    store.write("analysis/tool=tac/k.parquet", parquet.as_parquet(table))
    is_refused(store, "analysis/tool=tac/k.parquet", lambda: store.analysis("tac"), "one name")


@pytest.mark.parametrize(
    "name",
    [
        "../../x",
        "/etc/passwd",
        "..",
        "a\nerror: all is well",
        "\x1b[2J",
        "",
        "x" * 250,
        "\u4e00" * 90,
    ],
    ids=["above", "root", "dots", "line end", "escape", "empty", "long", "many bytes"],
)
@pytest.mark.parametrize("column", ["experiment", "attack"])
def test_a_name_that_can_not_be_one_is_refused(tmp_path: Path, column: str, name: str) -> None:
    store = Store(str(tmp_path))
    store.write_cell(row("c1", **{column: name}))
    is_refused(store, "cells/c1.parquet", store.cells, f"{column} can't be")


def test_a_row_of_the_cache_is_checked_as_those_of_the_files(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    for at in range(101):
        store.write_cell(row(f"c{at}", auroc=0.5))
    assert len(store.cells()) == 101
    path = "gathered/cells.parquet"
    table = parquet.read_parquet(store.read(path)).table
    forged = pa.array([1.957] * 101)
    table = table.set_column(table.schema.get_field_index("auroc"), "auroc", forged)
    store.write(path, parquet.as_parquet(table))
    assert set(store.cells()["auroc"]) == {0.5}


def test_the_path_of_scores_stays_in_the_store(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    outside = tmp_path / "outside" / "c1.parquet"
    outside.parent.mkdir()
    columns = {name: scores("c1", 3).get(name, [None] * 3) for name in SCORES.names}
    outside.write_bytes(parquet.as_parquet(pa.table(columns, schema=SCORES)))
    # Relative to scores/dataset=.
    names = {"dataset": "x", "attack": "x", "defense": "x/../../../../../outside", "cell": "c1"}
    with pytest.raises(FileNotFoundError):
        store.score_columns(names, ["score"])
    assert outside.exists()


def test_an_experiment_file_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    for at in range(2):
        store.write_cell(row(f"c{at}", config_id=f"config{at}"))
    store.write_experiment("x", {"name": "x"}, "config0")
    assert list(store.cells()["cell"]) == ["c0"]
    with Path(store.at("experiments/x.yaml")).open("r+b") as file:
        file.truncate(2**40)

    def call() -> None:
        assert len(store.cells()) == 1
        store.write_experiment("x", {"name": "x"}, "config1")
        raise UserError("read", "")

    assert refusal(call) == "read"
    assert store.read("experiments/x.yaml", 1000).startswith(b"# configuration: config1")


def too_large(store: Store, path: str) -> None:
    """Write a file of a terabyte, which takes no place on a disk."""
    store.write(path, b"{}")
    with Path(store.at(path)).open("r+b") as file:
        file.truncate(2**40)


def test_a_lease_of_gigabytes_says_nothing_and_expires(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "LEASE_SECONDS", 0.3)
    monkeypatch.setattr(lease, "WATCH_SECONDS", 0.05)
    store = Store(str(tmp_path))
    too_large(store, "sweeps/s/lease/000001.json")
    said: list[str] = []

    def call() -> None:
        with lease.owned(store, "sweeps/s/lease", "sweep 's'", said.append) as taken:
            assert taken.number == 2
        raise UserError(said[-1], "")

    assert "the lease of an unknown process has expired" in refusal(call)


def test_a_journal_of_gigabytes_is_set_aside(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    too_large(store, "sweeps/tuned/study.journal")
    sweep = parse_sweep(RAW)

    def call() -> None:
        check_same_sweep(sweep, store)
        find_sweeps(store)
        assert Journal(sweep, store).path.read_bytes() == b""
        raise UserError(*store.files("damaged/sweeps/tuned/*"), "")

    assert "study.journal" in refusal(call)


def test_a_hash_of_gigabytes_is_no_hash(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write("sweeps/tuned/study.journal", b'{"op_code": 0}\n')
    too_large(store, "sweeps/tuned/study.sha256")
    sweep = parse_sweep(RAW)

    def call() -> None:
        assert Journal(sweep, store).path.read_bytes() == b""
        raise UserError(*store.files("damaged/sweeps/tuned/*"), "")

    assert "study.journal" in refusal(call)


def test_a_checkpoint_of_terabytes_is_set_aside_and_the_stage_begins_again(tmp_path: Path) -> None:
    cell = one_cell(removal=False)
    store = Store(str(tmp_path / "store"))
    path = f"checkpoints/{cell.victim.key}/victim"
    too_large(store, path)
    assert run_cell(cell, store)["status"] == "ok"
    assert store.files(f"damaged/checkpoints/{cell.victim.key}/*")


def test_remote_files_are_read_up_to_their_limit(s3_url: str, tmp_path: Path) -> None:
    store = Store(f"{s3_url}/{tmp_path.name}")
    store.write("cells/large", b"x" * 5000)
    store.write("cells/small", b"abc")
    store.write("cells/empty", b"")
    paths = ["cells/large", "cells/small", "cells/empty", "cells/missing"]
    found = store.read_many(paths, at_most=100)
    assert found == {"cells/large": b"x" * 100, "cells/small": b"abc", "cells/empty": b""}
    assert store.read_many(paths) == {**found, "cells/large": b"x" * 5000}
    assert store.read_many([]) == store.read_many([], at_most=100) == {}


def test_tensors_in_object_storage_are_not_read_beyond_what_the_manifest_states(
    s3_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(f"{s3_url}/{tmp_path.name}")
    with_tensors(store, safetensors(tensor("F32", [1], 4), b"1234"))
    sound = store.read(f"{FOLDER}/tensors.safetensors")
    assert store.load("victim", "k").tensors["a"].shape == (1,)
    store.write(f"{FOLDER}/tensors.safetensors", sound + b"more")
    with pytest.raises(Damaged):
        store.load("victim", "k")
    assert "does not match its manifest" in caplog.text
