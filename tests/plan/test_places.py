"""Relative folders of data are those of the command, whoever reads them later."""

from pathlib import Path
from typing import Any

import pytest

from raybd.plan.file import parse
from raybd.sweeps.file import parse_sweep
from tests.image_files import png, write_parquet

FOLDER = {"kind": "parquet", "path": "data"}


def images(folder: Path, brightness: int) -> None:
    write_parquet(folder, [png(brightness + value) for value in range(20)], [0, 1] * 10)


def experiment(**more: Any) -> dict[str, Any]:
    return {
        "name": "places",
        "datasets": [FOLDER],
        "attacks": [{"kind": "blended", "side_data": FOLDER}],
        "trainers": [
            {"kind": "supervised", "network": "small_cnn"},
            {
                "kind": "transfer",
                "network": "small_cnn",
                "source": {"dataset": FOLDER, "trainer": {"kind": "supervised"}},
            },
        ],
        "detectors": [{"kind": "spectral", "trusted": {"dataset": FOLDER}}],
        **more,
    }


def keys(asked: Any) -> list[str]:
    return [cell.last.key for cell in asked.cells()]


def test_each_path_is_absolute_from_where_the_command_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    described = parse(experiment()).describe()
    data = str(tmp_path / "data")
    assert described["datasets"][0]["path"] == data
    assert described["attacks"][0]["side_data"]["path"] == data
    assert described["trainers"][1]["source"]["dataset"]["path"] == data
    assert described["detectors"][0]["trusted"]["dataset"]["path"] == data


def test_a_home_folder_is_found_wherever_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    asked = parse(experiment(datasets=[{"kind": "parquet", "path": "~/images"}]))
    assert asked.describe()["datasets"][0]["path"] == "/home/someone/images"


def test_another_working_folder_with_other_data_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images(tmp_path / "here" / "data", 0)
    images(tmp_path / "elsewhere" / "data", 100)
    sweep_file = {
        "name": "places",
        "experiment": experiment(),
        "search": {"detectors.0": {"remove": {"low": 0.1, "high": 0.2}}},
        "objectives": ["separation"],
    }
    monkeypatch.chdir(tmp_path / "here")
    asked = parse(experiment())
    sweep = parse_sweep(sweep_file)
    here = keys(asked), keys(sweep.base()), keys(sweep.comparison({}))

    monkeypatch.chdir(tmp_path / "elsewhere")
    assert (keys(asked), keys(sweep.base()), keys(sweep.comparison({}))) == here
    assert keys(parse(experiment())) != here[0]


def test_the_place_of_the_data_is_no_part_of_what_a_sweep_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    definitions = set()
    for name in "ab":
        images(tmp_path / name / "data", 0)
        monkeypatch.chdir(tmp_path / name)
        sweep = parse_sweep(
            {
                "name": "places",
                "experiment": experiment(),
                "search": {"detectors.0": {"remove": {"low": 0.1, "high": 0.2}}},
                "objectives": ["separation"],
            }
        )
        definitions.add(sweep.definition)
    assert len(definitions) == 1
