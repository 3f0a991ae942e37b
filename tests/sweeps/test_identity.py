"""A sweep that changed under its name is refused before anything of the store changes."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from raybd import api
from raybd.engine.tune.journal import Journal
from raybd.engine.tune.study import open_study
from raybd.results.store import Store
from raybd.sweeps.file import parse_sweep
from raybd.sweeps.identity import check_same_sweep, note_sweep
from raybd.sweeps.sweep import DEFAULT
from raybd.types.errors import UserError
from tests.image_files import png, write_parquet
from tests.report.test_sweeps import RAW, row, run


def _contents(store: Store) -> dict[str, bytes]:
    root = Path(store.url)
    return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def _changed(**values: Any) -> dict[str, Any]:
    return {**copy.deepcopy(RAW), **values}


def _with_limit(limit: int) -> dict[str, Any]:
    raw = _changed()
    raw["experiment"]["datasets"][0]["limit"] = limit
    return raw


def _on_images(folder: Path, first: int) -> dict[str, Any]:
    """A sweep on images of one's own, which begin with that grey."""
    write_parquet(folder, [png(first + value) for value in range(40)], [0, 1] * 20)
    raw = _changed()
    raw["experiment"]["datasets"] = [{"kind": "parquet", "path": str(folder), "clean": 4}]
    return raw


OTHERS = {
    "objectives": _changed(objectives=["seconds"]),
    "range": _changed(search={"detectors.0": {"epochs": {"low": 1, "high": 3}}}),
    "data set": _with_limit(500),
}


@pytest.mark.parametrize("what", OTHERS)
@pytest.mark.parametrize("noted", [True, False])
def test_another_sweep_of_the_same_name_is_refused_and_nothing_is_written(
    what: str, noted: bool, tmp_path: Path
) -> None:
    store = Store(str(tmp_path))
    sweep = parse_sweep(RAW)
    study = run(store, trials=2)
    if noted:
        note_sweep(sweep, store)
    else:  # as earlier versions left it: in the journal alone
        journal = Path(store.at("sweeps/tuned/study.journal"))
        line = (
            f'{{"op_code": 2, "study_id": 0, "user_attr": {{"definition": "{sweep.definition}"}}}}'
        )
        journal.write_text(f"{journal.read_text()}{line}\n")
    before = _contents(store)

    other = parse_sweep(OTHERS[what])
    with pytest.raises(UserError, match="another sweep 'tuned', with other methods, ranges or"):
        api.execute_sweep(other, store, quiet=True)
    assert _contents(store) == before
    check_same_sweep(sweep, store)
    check_same_sweep(parse_sweep(_changed(trials=99)), store)
    assert len(study.trials) == 5


@pytest.mark.parametrize("damage", ["hash", "type", "name", "nesting", "bytes", "list"])
def test_a_damaged_note_of_what_was_searched_does_not_make_it_another_sweep(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(str(tmp_path))
    sweep = parse_sweep(RAW)
    run(store, trials=2)
    note_sweep(sweep, store)
    path = "sweeps/tuned/identity.json"
    told = json.loads(store.read(path))
    other = ("b" if told["stages"][0] == "a" else "a") + told["stages"][1:]
    damaged = {
        "hash": json.dumps({**told, "stages": other}).encode(),
        "type": json.dumps({**told, "stages": 3}).encode(),
        "name": json.dumps(told).replace("definition", "definitiom").encode(),
        "nesting": b"[" * 100_000,
        "bytes": b"\xff\x00",
        "list": b"[]",
    }
    # The journal tells the same.
    journal = Path(store.at("sweeps/tuned/study.journal"))
    line = f'{{"op_code": 2, "study_id": 0, "user_attr": {{"definition": "{sweep.definition}"}}}}'
    journal.write_text(f"{journal.read_text()}{line}\n")
    store.write(path, damaged[damage])

    check_same_sweep(sweep, store)
    (message,) = [record.getMessage() for record in caplog.records if "set aside" in record.msg]
    assert path in message
    note_sweep(sweep, store)
    check_same_sweep(sweep, store)
    with pytest.raises(UserError, match="another sweep 'tuned'"):
        check_same_sweep(parse_sweep(OTHERS["range"]), store)


@pytest.mark.parametrize("told", [True, False], ids=["damaged", "lost"])
def test_a_damaged_note_does_not_hide_that_the_data_changed(told: bool, tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    raw = _on_images(tmp_path / "images", first=0)
    sweep = parse_sweep(raw)
    open_study(sweep, Journal(sweep, store), {})
    store.write_trial("tuned", row(sweep, "0000", {}, None))
    note_sweep(sweep, store)
    if told:
        store.write("sweeps/tuned/identity.json", b"damaged")
    else:
        store.remove("sweeps/tuned/identity.json")
    check_same_sweep(sweep, store)
    _on_images(tmp_path / "images", first=1)
    with pytest.raises(UserError, match="on other data"):
        check_same_sweep(parse_sweep(raw), store)


def test_trials_without_what_was_searched_are_refused(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    sweep = parse_sweep(RAW)
    store.write_trial("tuned", row(sweep, DEFAULT, {}, None))
    check_same_sweep(sweep, store)
    store.write_trial("tuned", row(sweep, "0000", {}, None))
    with pytest.raises(UserError, match="not what was searched"):
        check_same_sweep(sweep, store)


def test_the_same_file_on_other_images_is_another_sweep(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    raw = _on_images(tmp_path / "images", first=0)
    note_sweep(parse_sweep(raw), store)
    check_same_sweep(parse_sweep(raw), store)
    _on_images(tmp_path / "images", first=1)
    with pytest.raises(UserError, match="on other data"):
        check_same_sweep(parse_sweep(raw), store)
