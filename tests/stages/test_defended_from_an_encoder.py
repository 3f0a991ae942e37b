"""A training defense that starts from an encoder of the poisoned set."""

from pathlib import Path
from typing import Any

import pytest

from raybd.cells.cell import Cell
from raybd.cells.run import run_cell
from raybd.plan.file import parse
from raybd.results.store import Store
from raybd.stages.defended import Defended
from raybd.stages.encoder import Encoder
from raybd.types.errors import UserError
from tests.tiny_cells import TINY, on_encoder

ENCODER = {"trainer": {"kind": "simclr", "epochs": 1, "batch_size": 32}}
DBD = {"kind": "dbd", "epochs": 1, "steps": 2, "batch_size": 8, "encoder": ENCODER}
NAB: dict[str, Any] = {
    "kind": "nab",
    "labels_from": "encoder",
    "isolation_steps": 2,
    "epochs": 1,
    "encoder": ENCODER,
}


def cells(*defenses: dict[str, Any], **more: Any) -> dict[str, Cell]:
    asked = {**TINY, "detectors": [], "training_defenses": list(defenses), **more}
    return {cell.defense_name: cell for cell in parse(asked).cells()}


def defended(cell: Cell) -> Defended:
    assert isinstance(cell.last, Defended)
    return cell.last


def encoder(cell: Cell) -> Encoder:
    found = defended(cell).encoder
    assert found is not None
    return found


def test_defenses_share_the_encoder_of_the_victim_s_poisoned_set_and_network() -> None:
    found = cells(DBD, NAB)
    assert encoder(found["dbd"]).key == encoder(found["nab"]).key
    assert encoder(found["dbd"]).poison.key == found["none"].victim.overlay_stage.key
    assert encoder(found["dbd"]).victim_network == found["none"].network
    # A probe on the same poison stands on the same encoder.
    probe = {**on_encoder("linear_probe"), "encoder": ENCODER, "name": "probe"}
    (cell,) = parse({**TINY, "detectors": [], "trainers": [probe]}).cells()
    assert cell.victim.encoder_stage is not None
    assert cell.victim.encoder_stage.key == encoder(found["dbd"]).key


def test_the_encoder_is_a_part_of_the_key_and_of_the_row() -> None:
    longer = {**DBD, "encoder": {"trainer": {**ENCODER["trainer"], "epochs": 2}}}
    one, two = cells(DBD)["dbd"], cells(longer)["dbd"]
    assert one.last.key != two.last.key
    assert defended(two).method.describe()["encoder"]["epochs"] == 2
    assert set(one.keys()) == {"poison", "victim", "encoder", "defended"}


def test_an_experiment_with_an_encoder_is_written_as_it_was_read() -> None:
    asked = parse({**TINY, "training_defenses": [DBD], "precision": "fp32"})
    again = parse(asked.describe())
    assert [cell.id for cell in again.cells()] == [cell.id for cell in asked.cells()]
    (dbd,) = (cell for cell in asked.cells() if cell.defense_name == "dbd")
    assert encoder(dbd).method.precision == "fp32"


def test_canaries_are_in_what_the_encoder_learns_from() -> None:
    cell = cells(DBD, canaries={"least": 10})["dbd"]
    assert encoder(cell).poison.name == "plant"
    assert encoder(cell).poison_stage.name == "poison"


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ({"kind": "dbd"}, r"dbd has nothing to start from\nName an encoder"),
        ({"kind": "nab", "labels_from": "encoder"}, "nab has nothing to start from"),
        ({"kind": "abl", "encoder": ENCODER}, "abl starts from no encoder"),
        ({"kind": "dbd", "encoder": {"trainer": {"kind": "linear_probe"}}}, "cannot start from"),
        ({"kind": "dbd", "encoder": {"trainer": {"kind": "simclrr"}}}, "unknown trainer"),
        ({"kind": "dbd", "encoder": {**ENCODER, "dataset": {"kind": "digits"}}}, "dataset"),
    ],
)
def test_a_wrong_start_is_refused_before_anything_runs(entry: dict[str, Any], text: str) -> None:
    with pytest.raises(UserError, match=text):
        cells(entry)


def test_the_encoder_s_time_counts_as_the_defense_s(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    cell = cells(DBD)["dbd"]
    row = run_cell(cell, store)
    assert row["status"] == "ok" and row["defended_clean_accuracy"] is not None
    spent = [
        store.manifest(stage.name, stage.key)["seconds"] for stage in (encoder(cell), cell.last)
    ]
    assert row["seconds"] == pytest.approx(sum(spent))
    # The second defense finds the encoder in the store.
    before = store.manifest("encoder", encoder(cell).key)
    run_cell(cells(NAB)["nab"], store)
    assert store.manifest("encoder", encoder(cell).key) == before
