"""Objectives of sweeps that canaries define: who plants them, and where they make no sense."""

import copy
from pathlib import Path
from typing import Any

import pytest

from raybd.cells import run as stages
from raybd.cells.cell import Cell
from raybd.cells.row import record_trial
from raybd.results.store import Store
from raybd.sweeps.file import parse_sweep
from raybd.sweeps.trials import measured
from raybd.types.errors import UserError

TINY: dict[str, Any] = {
    "name": "tiny",
    "datasets": [{"kind": "digits", "limit": 800, "test_limit": 50, "clean": 130}],
    "attacks": [{"kind": "badnets"}],
    "trainers": [
        {
            "kind": "supervised",
            "network": {"kind": "small_cnn", "width": 4},
            "epochs": 1,
            "augment": "none",
        }
    ],
    "detectors": [{"kind": "spectral", "reference": "trusted"}],
}


def names_of(cell: Cell) -> list[str]:
    return [stage.name for stage in cell.stages()]


SWEEP: dict[str, Any] = {
    "name": "search",
    "experiment": {
        **{name: value for name, value in TINY.items() if name != "name"},
        "detectors": [{"kind": "asset"}, {"kind": "strip"}],
    },
    "search": {"detectors.0": {"lr_min": None}},
    "objectives": ["canary"],
}


def test_an_objective_of_canaries_plants_them_in_the_trials_and_not_in_the_comparison() -> None:
    for objective, runs in (
        ("canary", 3),
        ("stability", 3),
        ("canary_auroc", 1),
        ("trusted_fpr", 1),
    ):
        sweep = parse_sweep({**SWEEP, "objectives": [objective, "auroc"]})
        (cell,) = sweep.cells_of(sweep.experiment({"detectors.0.lr_min": 1e-3}))
        assert "plant" in names_of(cell)
        assert ("stability" in names_of(cell)) == (runs == 3)
        (default,) = sweep.cells_of(sweep.base())
        assert default.victim.key == cell.victim.key, "trained once"
        assert not any("plant" in names_of(cell) for cell in sweep.comparison({}).cells())
    plain = parse_sweep({**SWEEP, "objectives": ["separation", "auroc"]})
    assert not any("plant" in names_of(cell) for cell in plain.base().cells())
    assert plain.definition != parse_sweep({**SWEEP, "objectives": ["canary", "auroc"]}).definition


def test_a_sweep_may_say_how_many_canaries() -> None:
    experiment = {**SWEEP["experiment"], "canaries": {"least": 7, "runs": 5}}
    found = parse_sweep({**SWEEP, "experiment": experiment}).base().canaries
    assert found is not None
    assert (found.least, found.runs) == (7, 5)


def test_a_trial_has_the_objective_as_its_number(tmp_path: Path) -> None:
    experiment = {
        **SWEEP["experiment"],
        "detectors": [{"kind": "spectral"}],
        "canaries": {"rate": 0.04, "least": 12},
    }
    sweep = parse_sweep(
        {
            **SWEEP,
            "experiment": experiment,
            "search": {"detectors.0": {"fpr": {"low": 0.01, "high": 0.1}}},
        }
    )
    (cell,) = sweep.cells_of(sweep.base())
    store = Store(str(tmp_path))
    stages.run_cell(cell, store)
    row, facts = record_trial(cell, store, "search", "default")
    assert measured(sweep, [row], [facts]) == {"canary": facts["canary"], "auroc": row["auroc"]}


PROBE = {"kind": "linear_probe", "network": "small_cnn", "encoder": {"trainer": {"kind": "supcon"}}}
BAD: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"trainers": [PROBE]}, {}, "linear_probe is a probe on an encoder"),
    ({"attacks": [{"kind": "input_aware"}]}, {}, "input_aware hands out a victim of its own"),
    (
        {},
        {"search": {"detectors.1": {"overlays": {"low": 2, "high": 5}}}},
        "canary needs a score for each training image, and strip",
    ),
    ({"canaries": {"leest": 3}}, {}, "canaries"),
]


@pytest.mark.parametrize(("experiment", "values", "what"), BAD, ids=lambda value: str(value)[:30])
def test_where_canaries_make_no_sense_the_sweep_says_so(
    experiment: dict[str, Any], values: dict[str, Any], what: str
) -> None:
    raw = copy.deepcopy({**SWEEP, **values, "experiment": {**SWEEP["experiment"], **experiment}})
    with pytest.raises(UserError, match=what):
        parse_sweep(raw, "file.yaml")
