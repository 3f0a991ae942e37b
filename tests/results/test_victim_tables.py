"""Tables about victims: what is written is read, and nothing else is."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from raybd.cells.answers import answers
from raybd.engine.cluster.doctor.store import store_findings
from raybd.results.parquet import as_parquet
from raybd.results.store import Store


def some(n: int = 3) -> pa.Table:
    return answers("test_clean", torch.arange(n), torch.zeros(n).long(), torch.rand(n, 4))


def test_what_was_not_kept_is_null(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    written = some()
    store.write_victim_table("predictions", "v", written.drop_columns(["p_pred", "loss"]))
    table = store.victim_table("predictions", "v")
    assert table is not None
    assert table["loss"].null_count == table["p_pred"].null_count == 3
    assert table["p_true"].to_pylist() == written["p_true"].to_pylist()


@pytest.mark.parametrize("damage", ["byte", "other victim", "no checksum", "word", "missing label"])
def test_a_damaged_file_is_set_aside_and_counts_as_missing(tmp_path: Path, damage: str) -> None:
    store = Store(str(tmp_path))
    table = some()
    if damage == "word":
        words = pa.array(["elsewhere"] * 3).dictionary_encode()
        table = table.set_column(0, "pool", words)
    if damage == "missing label":
        table = table.set_column(2, "true", pa.nulls(3, pa.uint32()))
    store.write_victim_table("predictions", "v", table)
    path = tmp_path / "predictions" / "v.parquet"
    data = path.read_bytes()
    if damage == "byte":
        path.write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
    if damage == "other victim":
        path.rename(path.with_name("w.parquet"))
    if damage == "no checksum":
        pq.write_table(table, path)
    name = "w" if damage == "other victim" else "v"
    assert store.victim_table("predictions", name) is None
    assert not store.files("predictions/*")
    assert store.files("damaged/predictions/*")


def test_doctor_looks_at_them(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write_victim_table("predictions", "v", some())
    store.write("dynamics/v.parquet", as_parquet(pa.table({"x": [1]}))[:-9] + b"damaged!!")
    (found,) = [one for one in store_findings(str(tmp_path)) if one.check == "integrity"]
    assert "2 other tables checked, 1 damaged" in found.found


def test_labels_alone_take_little_space(tmp_path: Path) -> None:
    """10,000 clean and 9,000 triggered images: below 20 KB, and 200 KB with probabilities."""
    store = Store(str(tmp_path))
    rng = torch.Generator().manual_seed(0)
    y_N = torch.randint(10, (10_000,), generator=rng)
    logits_NK = torch.randn(10_000, 10, generator=rng)
    # Nine of ten are right, as of a trained victim.
    logits_NK[torch.arange(9000), y_N[:9000]] += 8
    clean = answers("test_clean", torch.arange(10_000), y_N, logits_NK)
    rows = (y_N != 0).nonzero().flatten()
    wanted_M = torch.zeros(len(rows)).long()
    worn_MK = torch.randn(len(rows), 10, generator=rng)
    worn_MK[:, 0] += 6
    worn = answers("test_triggered", rows, y_N[rows], worn_MK, wanted_M)
    table = pa.concat_tables([clean, worn])
    store.write_victim_table("predictions", "full", table)
    names = ["pool", "index", "true", "wanted", "pred"]
    store.write_victim_table("predictions", "labels", table.select(names))
    sizes = {
        name: (tmp_path / "predictions" / f"{name}.parquet").stat().st_size
        for name in ("full", "labels")
    }
    assert sizes["labels"] < 25_000
    assert sizes["full"] < 220_000
