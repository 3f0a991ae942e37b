"""A record of BackdoorBench, from the folder to the rows of three detectors."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from raybd.cells.run import run_cell
from raybd.datasets.digits import Digits
from raybd.plan.file import load
from raybd.poisoning.recorded import keys_of
from raybd.results.store import Store
from raybd.types.data import CROSS, POISON
from raybd.types.errors import Infeasible, UserError
from tests.cli.in_process import raybd
from tests.plain_model import SIZE, plainly_trained, worn
from tests.records import Given, make_record

DATA = ["--data", "digits", "--size", SIZE]
CROSS_PLACES = range(200, 260)


def _changed() -> tuple[Given, Given, tuple[int, int]]:
    """A tenth of the training set with the square and label 0, and noise images as of WaNet."""
    source = Digits(size=SIZE).source()
    n_train, n_test = len(source.train_y_N), len(source.test_y_N)
    x_NCHW = source.read("train", torch.arange(n_train))
    train = {place: (worn(x_NCHW[place]), 0, int(source.train_y_N[place])) for place in range(144)}
    for place in CROSS_PLACES:
        true = int(source.train_y_N[place])
        # Of the target class, nobody can tell them from poison.
        if true != 0:
            train[place] = (255 - x_NCHW[place], true, true)
    x_NCHW = source.read("test", torch.arange(n_test))
    test = {
        place: (worn(x_NCHW[place]), 0, true)
        for place, true in enumerate(source.test_y_N.tolist())
        if true != 0
    }
    return train, test, (n_train, n_test)


@pytest.fixture
def record(tmp_path: Path) -> Path:
    train, test, sizes = _changed()
    return make_record(tmp_path / "badnet_0_1", plainly_trained().state_dict(), train, test, sizes)


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _convert(monkeypatch: pytest.MonkeyPatch, record: Path, *more: object) -> tuple[int, Path]:
    out = record.parent / "out"
    return raybd(monkeypatch, "import-record", record, *DATA, *more, "-o", out), out


def test_a_record_is_evaluated_by_three_detectors(
    record: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    code, out = _convert(monkeypatch, record)
    assert code == 0
    printed = capsys.readouterr()
    assert printed.out.strip() == str(out / "experiment.yaml")
    assert "raybd run" in printed.err

    changes = [
        "trainers.0.normalisation=half",
        "datasets.0.clean=200",
        "datasets.0.test_limit=150",
        "detectors.2.overlays=10",
    ]
    cells = load(out / "experiment.yaml", changes).cells()
    assert [cell.defense_name for cell in cells] == [
        "none",
        "spectral",
        "activation_clustering",
        "strip",
    ]
    store = Store(str(tmp_path / "store"))
    rows = [run_cell(cell, store) for cell in cells]
    assert [row["status"] for row in rows] == ["ok"] * 4
    assert rows[0]["attack"] == "record-badnet_0_1"
    # The recorded images with the trigger, on the recorded model.
    assert rows[0]["attack_success"] > 0.8
    assert rows[0]["clean_accuracy"] > 0.8
    assert rows[0]["counted_n"] == 135
    assert all(row["auroc"] is not None for row in rows[1:])
    assert max(row["auroc"] for row in rows[1:]) > 0.8


def test_the_flags_arrive_at_the_images_that_they_are_about(
    record: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _, out = _convert(monkeypatch, record)
    (cell,) = load(
        out / "experiment.yaml",
        ["trainers.0.normalisation=half", "datasets.0.clean=200", "detectors=[]"],
    ).cells()
    store = Store(str(tmp_path / "store"))
    run_cell(cell, store)
    poison = cell.victim.poison_stage
    facts = store.manifest("poison", poison.key)
    tensors = store.load("poison", poison.key).tensors
    role_M = tensors["role_M"]
    # The defender trusts 200 of the 1,437 images; those were never changed.
    assert 100 < facts["n_poison"] <= 144
    assert 40 < facts["n_cross"] <= len(CROSS_PLACES)
    dataset = Digits(size=SIZE, clean=200).load()
    before = dataset.train.x_NCHW[tensors["index_M"]]
    assert torch.equal(tensors["x_MCHW"][role_M == POISON], worn(before[role_M == POISON]))
    assert torch.equal(tensors["x_MCHW"][role_M == CROSS], 255 - before[role_M == CROSS])
    assert not tensors["y_M"][role_M == POISON].any()
    true_M = dataset.train.y_N[tensors["index_M"]]
    assert torch.equal(tensors["y_M"][role_M == CROSS], true_M[role_M == CROSS])
    # Of the changed images, none is left out but those that the defender trusts.
    source = Digits(size=SIZE).source()
    cross = [place for place in CROSS_PLACES if source.train_y_N[place] != 0]
    places = torch.tensor([*range(144), *cross])
    keys = keys_of(source.read("train", places))
    trusted = set(keys_of(dataset.clean.x_NCHW).tolist())
    assert len(role_M) == sum(key not in trusted for key in keys.tolist())


def test_a_record_is_not_used_with_other_data(
    record: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _, out = _convert(monkeypatch, record)
    store = Store(str(tmp_path / "store"))
    more = ["trainers.0.normalisation=half", "detectors=[]"]
    (cell,) = load(out / "experiment.yaml", ["datasets.0.size=24", *more]).cells()
    with pytest.raises(UserError, match="the training set has images of another size"):
        run_cell(cell, store)
    (cell,) = load(out / "experiment.yaml", ["attacks.0.wanted=[0,0,0]", *more]).cells()
    assert "about 3 classes, and there are 10" in str(cell.infeasible)


def test_data_in_another_order_is_refused(
    record: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content = torch.load(record / "attack_result.pt", weights_only=False)
    items = content["bd_train"]["bd_data_container"]["data_dict"]
    items[5]["other_info"][1] = (int(items[5]["other_info"][1]) + 1) % 10
    torch.save(content, record / "attack_result.pt")
    code, out = _convert(monkeypatch, record)
    assert code == 2
    assert "its train part has another label at 1 of 196 places" in capsys.readouterr().err
    assert not out.exists()


def test_a_record_without_its_images_names_the_file(
    record: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = next((record / "bd_test_dataset").rglob("*.png"))
    gone.unlink()
    code, _ = _convert(monkeypatch, record)
    assert code == 2
    assert str(gone) in capsys.readouterr().err


def test_images_that_were_kept_in_memory_are_refused(
    record: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content = torch.load(record / "attack_result.pt", weights_only=False)
    items = content["bd_train"]["bd_data_container"]["data_dict"]
    for place in items:
        items[place] = (Image.new("RGB", (SIZE, SIZE)), 0, 0)
    torch.save(content, record / "attack_result.pt")
    code, _ = _convert(monkeypatch, record)
    assert code == 2
    assert "its images were kept in memory" in capsys.readouterr().err


def test_what_is_no_record_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert _convert(monkeypatch, empty)[0] == 2
    assert "no attack_result.pt" in capsys.readouterr().err
    torch.save({"model": {}, "bd_train": 3}, empty / "attack_result.pt")
    assert _convert(monkeypatch, empty)[0] == 2
    assert "no whole record" in capsys.readouterr().err


def test_an_image_without_a_recorded_trigger_is_an_error(
    record: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, out = _convert(monkeypatch, record)
    attack: Any = load(out / "experiment.yaml").attacks[0].config
    state = {"key_L": torch.tensor([1]), "x_LCHW": torch.zeros(1, 3, 4, 4, dtype=torch.uint8)}
    with pytest.raises(UserError, match="no version with the trigger of 2 of 2 images"):
        attack.stamp(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), state)
    with pytest.raises(Infeasible):
        attack.choose(torch.zeros(3, dtype=torch.int64), 4, torch.Generator())
