"""What stands where a file of the store belongs: links, folders, other files, odd roots."""

from pathlib import Path

import pytest
import torch

from raybd.engine.cluster.doctor.store import store_findings
from raybd.results.store import Store
from tests.results.test_store import row, scores

SECRET = b"a file of the user that is no part of the store"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "results"))


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "outside" / "secret.txt"
    path.parent.mkdir()
    path.write_bytes(SECRET)
    return path


def test_a_link_is_not_read_and_is_set_aside_with_one_line(
    store: Store, secret: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store.write("experiments/other.yaml", b"x")
    Path(store.at("experiments/tiny.yaml")).symlink_to(secret)
    for _ in range(2):
        assert store.read_if_there("experiments/tiny.yaml") is None
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "experiments/tiny.yaml: a link" in caplog.text
    assert not store.exists("experiments/tiny.yaml")
    assert secret.read_bytes() == SECRET


def test_a_linked_folder_is_neither_listed_read_written_nor_emptied(
    store: Store, secret: Path
) -> None:
    link = Path(store.at("experiments"))
    link.parent.mkdir()
    for use in (
        lambda: store.files("experiments/*"),
        lambda: store.fingerprints("experiments"),
        lambda: store.read_if_there("experiments/secret.txt"),
        lambda: store.write("experiments/secret.txt", b"new"),
        lambda: store.remove("experiments/secret.txt"),
        lambda: store.exists("experiments/secret.txt") or None,
    ):
        if not link.is_symlink():
            store.remove("experiments")
            link.symlink_to(secret.parent)
        assert not use()
        assert secret.read_bytes() == SECRET


def test_a_path_that_leaves_the_store_is_not_read(store: Store, secret: Path) -> None:
    store.write("experiments/tiny.yaml", b"x")
    assert store.read_if_there("experiments/../../outside/secret.txt") is None
    assert store.read_many(["../outside/secret.txt"]) == {}


@pytest.mark.parametrize("place", ["cells", "cells/c1.parquet", "artifacts/score/k/manifest.json"])
def test_a_file_takes_the_place_that_something_else_holds(
    store: Store, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = Path(store.at(place))
    blocked.parent.mkdir(parents=True)
    if place == "cells":
        blocked.write_text("a file where a folder belongs")
    else:
        (blocked / "folder").mkdir(parents=True)

    assert store.cells().empty
    assert store.cell("c1") is None
    assert store.state("score", "k") in ("missing", "damaged")
    assert f"{place}: a " in caplog.text
    store.write_cell(row("c1"))
    store.save("score", "k", {"a": torch.zeros(1)}, {})
    assert len(store.cells()) == 1
    assert store.state("score", "k") == "ok"


def test_a_file_in_the_place_of_the_folder_of_scores_makes_the_cell_unfinished(
    store: Store,
) -> None:
    store.write_cell(row("c1", n_scores=5))
    store.write("scores/dataset=x", b"a file")
    assert store.cell("c1") is None
    store.write_scores("c1", "x", "x", "x", scores("c1", 5))
    assert store.cell("c1") is not None
    assert len(store.scores()) == 5


@pytest.mark.parametrize("name", ["with [v1] in it", "a*b?", "ünicode [!x]"])
def test_glob_characters_in_the_path_of_a_store_hide_nothing(tmp_path: Path, name: str) -> None:
    store = Store(str(tmp_path / name))
    store.write_cell(row("c1", n_scores=5))
    store.write_scores("c1", "x", "x", "x", scores("c1", 5))
    store.save("victim", "k", {"a": torch.zeros(8)}, {})
    assert store.files("cells/*.parquet") == ["cells/c1.parquet"]
    assert len(store.scores()) == 5

    path = Path(store.at("artifacts/victim/k/tensors.safetensors"))
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    found = {finding.check: finding.found for finding in store_findings(store.url)}
    assert found["integrity"].endswith("checked, 1 damaged")
    assert found["integrity"].startswith("1 artefacts, 1 cells")


def test_a_damaged_file_that_can_not_be_moved_is_not_used_all_the_same(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    store.write_cell(row("c2"))
    too_long_to_be_renamed = "c" * 240 + ".parquet"
    Path(store.at(f"cells/{too_long_to_be_renamed}")).write_bytes(b"damaged")
    assert store.cells()["cell"].tolist() == ["c2"]
    assert "can't be set aside" in caplog.text
