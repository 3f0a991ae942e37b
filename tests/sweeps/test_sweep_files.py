"""Sweep files: the search space, its conditions, the objectives, and what is said of a bad one."""

import copy
from pathlib import Path
from typing import Any

import optuna
import pytest

from raybd.cli.sweep_tables import trials_table
from raybd.sweeps.file import load_sweep, parse_sweep
from raybd.sweeps.ranges import Params
from raybd.sweeps.sweep import DEFAULT, Sweep, make_sampler
from raybd.sweeps.trials import (
    best_of,
    defaults_are_better,
    measured,
    rank_correlation,
    sweep_facts,
    trials_left,
)
from raybd.types.errors import UserError

SWEEPS = sorted((Path(__file__).parents[2] / "configs" / "sweeps").glob("*.yaml"))
RAW: dict[str, Any] = {
    "name": "search",
    "experiment": {
        "datasets": [{"kind": "digits", "limit": 600, "test_limit": 100, "clean": 60}],
        "attacks": [{"kind": "badnets"}],
        "trainers": [{"kind": "supervised", "network": "small_cnn", "epochs": 1}],
        "detectors": [{"kind": "asset"}, {"kind": "dede", "side": 32}, {"kind": "strip"}],
    },
    "search": {
        "detectors.0": {
            "lr_min": None,
            "epochs": {"low": 1, "high": 5},
            "minimise": {"choices": ["variance"]},
        }
    },
    "objectives": ["separation"],
}


def changed(**values: Any) -> dict[str, Any]:
    return {**copy.deepcopy(RAW), **values}


def suggested(sweep: Sweep, trials: int = 40) -> list[dict[str, Any]]:
    """What Optuna is asked for."""
    study = optuna.create_study(sampler=make_sampler(sweep, 0))
    return [sweep.suggest(study.ask()) for _ in range(trials)]


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_a_ready_sweep_is_whole(path: Path) -> None:
    sweep = load_sweep(path)
    assert sweep.name == path.stem
    assert path.read_text().startswith("# ")
    assert f"raybd sweep configs/sweeps/{path.name}" in path.read_text()
    accepted = [params for params in suggested(sweep) if sweep.refused(params, 32) is None]
    assert len(accepted) >= 10
    for params in accepted[:3]:
        assert sweep.comparison(params).name == f"{path.stem}_best"


def test_a_declared_range_is_taken_and_a_given_one_replaces_it() -> None:
    ranges = {found.field: found for found in parse_sweep(RAW).ranges}
    assert (ranges["lr_min"].low, ranges["lr_min"].high, ranges["lr_min"].log) == (3e-5, 3e-3, True)
    assert (ranges["epochs"].low, ranges["epochs"].high, ranges["epochs"].integer) == (1, 5, True)
    assert ranges["minimise"].choices == ("variance",)


def test_values_stay_in_their_ranges_and_reach_the_method() -> None:
    sweep = parse_sweep(RAW)
    for params in suggested(sweep):
        config: Any = sweep.experiment(params).defenses[0].config
        assert config.epochs == params["detectors.0.epochs"] in range(1, 6)
        assert config.lr_min == params["detectors.0.lr_min"]
        assert 3e-5 <= config.lr_min <= 3e-3


def test_all_takes_every_declared_range() -> None:
    sweep = parse_sweep(changed(search={"detectors.0": "all"}))
    assert {"minimise", "maximise", "suspicion", "top", "cut", "lr_max"} <= {
        found.field for found in sweep.ranges
    }


def test_a_condition_decides_which_fields_are_searched() -> None:
    seen = set()
    for params in suggested(parse_sweep(changed(search={"detectors.0": "all"})), 60):
        picked = params["detectors.0.concentrate"] != "none"
        select = params.get("detectors.0.select")
        assert ("detectors.0.steps" in params) == picked == (select is not None)
        assert ("detectors.0.top" in params) == (picked and select == "top")
        assert ("detectors.0.cut" in params) == (picked and select == "outlying")
        seen.add((picked, select))
    assert len(seen) == 3


def test_a_condition_on_a_field_that_is_not_searched_looks_at_the_file() -> None:
    raw = changed(search={"detectors.0": {"top": None, "cut": None}})
    assert suggested(parse_sweep(raw), 1)[0].keys() == {"detectors.0.top"}
    raw["experiment"]["detectors"][0]["select"] = "outlying"
    assert suggested(parse_sweep(raw), 1)[0].keys() == {"detectors.0.cut"}


def test_a_method_refuses_what_it_can_not_be() -> None:
    sweep = parse_sweep(
        changed(
            search={
                "detectors.1": {"patch": {"choices": [4, 8]}, "mask_ratio": None, "width": None}
            }
        )
    )
    assert sweep.refused({"detectors.1.patch": 4, "detectors.1.mask_ratio": 0.95}, 32) is None
    assert "all of 16 patches" in str(
        sweep.refused({"detectors.1.patch": 8, "detectors.1.mask_ratio": 0.95}, 32)
    )
    assert "no multiple of patch" in str(sweep.refused({"detectors.1.patch": 5}, 32))
    assert "multiple of heads" in str(
        sweep.refused({"detectors.1.width": 100, "detectors.1.heads": 3}, 32)
    )


def drawn(sweep: Sweep, numbers: range) -> list[Params]:
    """What the trials of these numbers draw."""
    study = optuna.create_study()
    found = []
    for number in numbers:
        study.sampler = make_sampler(sweep, number)
        found.append(sweep.suggest(study.ask()))
    return found


def test_seed_and_number_alone_decide_what_a_trial_draws() -> None:
    sweep = parse_sweep(changed(sampler="random"))
    assert drawn(sweep, range(6))[3:] == drawn(sweep, range(3, 6))
    one, other = (drawn(parse_sweep(changed(seed=seed)), range(6)) for seed in (1, 2))
    assert not [params for params in one if params in other]
    # And each trial draws values of its own.
    assert not [params for params in one if one.count(params) > 1]


def test_directions_and_oracles_are_known_by_name() -> None:
    asked = ["auroc", "gpu_seconds", "mismatch_auroc", {"mine": "minimize"}]
    found = [
        (o.name, o.direction, o.oracle) for o in parse_sweep(changed(objectives=asked)).objectives
    ]
    assert found == [
        ("auroc", "maximize", True),
        ("gpu_seconds", "minimize", False),
        ("mismatch_auroc", "maximize", False),
        ("mine", "minimize", False),
    ]
    assert parse_sweep(changed(objectives=["defended_attack_success"])).oracle
    assert parse_sweep(changed(objectives=[{"control_auroc": "minimize"}])).oracle
    assert not parse_sweep(RAW).oracle


def test_only_the_cells_of_what_is_searched_are_run() -> None:
    sweep = parse_sweep(RAW)
    assert [cell.defense_name for cell in sweep.cells_of(sweep.base())] == ["asset"]
    trainer = parse_sweep(
        changed(
            search={"trainers.0": {"epochs": {"low": 1, "high": 3}}}, objectives=["clean_accuracy"]
        )
    )
    assert len(trainer.cells_of(trainer.base())) == 4


def test_the_best_stand_beside_the_defaults_on_the_held_out_attacks_too() -> None:
    sweep = parse_sweep(changed(held_out={"attacks": [{"kind": "blended"}]}))
    compared = sweep.comparison({"detectors.0.epochs": 5})
    assert [attack.name for attack in compared.attacks] == ["badnets", "blended"]
    assert [method.name for method in compared.defenses] == ["asset", "dede", "strip", "asset_best"]
    best: Any = compared.defenses[-1].config
    assert best.epochs == 5


def test_an_objective_is_the_mean_over_the_cells_that_have_it() -> None:
    sweep = parse_sweep(changed(objectives=["auroc", "separation"]))
    rows = [{"auroc": None}, {"auroc": 0.5}, {"auroc": 1.0}]
    assert measured(sweep, rows, [{"separation": x} for x in (0.0, 0.3, 0.6)]) == pytest.approx(
        {"auroc": 0.75, "separation": 0.3}
    )
    with pytest.raises(ValueError, match="separation: no cell"):
        measured(sweep, rows, [{}, {}, {}])


def test_a_number_that_is_measured_is_not_replaced_by_what_a_method_tells() -> None:
    sweep = parse_sweep(changed(objectives=["auroc"]))
    assert measured(sweep, [{"auroc": 0.5}], [{"auroc": 1.0}]) == {"auroc": 0.5}


def _row(state: str, *values: float, auroc: float | None = None) -> dict[str, Any]:
    return {
        "state": state,
        "auroc": auroc,
        "trial": str(values),
        **{f"objective_{i}": value for i, value in enumerate(values)},
    }


def test_several_objectives_have_a_pareto_front() -> None:
    sweep = parse_sweep(changed(objectives=["auroc", "seconds"]))
    rows = [
        _row("complete", 0.9, 10),
        _row("complete", 0.8, 5),
        _row("complete", 0.8, 6),
        _row("failed", 1.0, 1),
    ]
    assert [row["objective_1"] for row in best_of(sweep, rows)] == [10, 5]
    assert [
        row["objective_1"] for row in best_of(parse_sweep(changed(objectives=["auroc"])), rows)
    ] == [10]


def test_the_rank_correlation_is_spearmans() -> None:
    rows = [_row("complete", value, auroc=value**3) for value in (0.1, 0.2, 0.3, 0.4)]
    assert rank_correlation([*rows, _row("failed", 9.0)], "objective_0") == pytest.approx(1.0)
    assert rank_correlation(rows[:2], "objective_0") is None
    assert rank_correlation([_row("complete", 1.0, auroc=0.5)] * 5, "objective_0") is None


def test_an_infeasible_trial_uses_up_none_of_those_asked_for() -> None:
    rows = {
        "default": _row("complete"),
        "0": _row("infeasible"),
        "1": _row("complete"),
        "2": _row("failed"),
    }
    assert trials_left(parse_sweep(changed(trials=5)), rows) == 3


BAD = [
    (
        {"search": {"detectors.0": {"lr_mn": None}}},
        "search.detectors.0.lr_mn: unknown field",
        "Did you mean 'lr_min'?",
    ),
    ({"search": {"detectors.9": "all"}}, "the experiment has no such place", "detectors.0"),
    ({"search": {"detector": "all"}}, "'detector' is no method", "like detectors.0"),
    (
        {"search": {"detectors.2": "all"}},
        "detectors.2: the method declares no ranges",
        "{FIELD: {low",
    ),
    (
        {"search": {"detectors.2": {"overlays": None}}},
        "overlays: the field declares no range",
        "Give one",
    ),
    (
        {"search": {"detectors.0": {"epochs": {"low": 5, "high": 1}}}},
        "5 to 1 is no range",
        "low must not",
    ),
    (
        {"search": {"detectors.0": {"lr_min": {"low": "1e-4", "high": 1}}}},
        "does not hold numbers",
        "write 1.0e-3",
    ),
    (
        {"search": {"detectors.0": {"epochs": {"min": 1}}}},
        "epochs: {'min': 1} is no range",
        "{low: ..., high: ...",
    ),
    (
        {"search": {"detectors.0": {"select": {"choices": []}}}},
        "select: choices: []",
        "Give a list",
    ),
    ({"objectives": ["aurok"]}, "objectives[0]: 'aurok' is not known", "Did you mean 'auroc'?"),
    (
        {"objectives": [{"seconds": "maximize"}]},
        "seconds is better the other way",
        "Write seconds alone",
    ),
    ({"objectives": []}, "objectives", "Change the value"),
    ({"trials": 0}, "trials", "Change the value"),
    ({"trails": 3}, "trails: unknown field", "Did you mean 'trials'?"),
    ({"sampler": "nsga2"}, "nsga2 is for several objectives", "Take tpe"),
    (
        {"held_out": {"attacks": [{"kind": "badnet"}]}},
        "unknown attack 'badnet'",
        "Did you mean 'badnets'?",
    ),
]


@pytest.mark.parametrize(("values", "what", "hint"), BAD, ids=lambda value: str(value)[:30])
def test_a_bad_sweep_file_is_named_with_what_to_do(
    values: dict[str, Any], what: str, hint: str
) -> None:
    with pytest.raises(UserError) as caught:
        parse_sweep(changed(**values), "file.yaml")
    assert what in caught.value.what
    assert caught.value.what.startswith("file.yaml")
    assert hint in caught.value.hint


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing\.yaml"):
        load_sweep(tmp_path / "nothing.yaml")


def complete(trial: str, *numbers: float) -> dict[str, Any]:
    objectives = {f"objective_{i}": number for i, number in enumerate(numbers)}
    return {"trial": trial, "state": "complete", "params": "{}", "auroc": None, **objectives}


def test_a_sweep_says_that_its_defaults_are_better_than_its_best_trial() -> None:
    sweep = parse_sweep(RAW)
    rows = {trial: complete(trial, value) for trial, value in (("0000", 1.2), ("0001", 1.49))}
    for default, better in ((1.58, True), (1.49, False), (1.3, False)):
        found = sweep_facts(sweep, {**rows, DEFAULT: complete(DEFAULT, default)})
        assert found["defaults_are_better"] is better
    failed = {"trial": DEFAULT, "state": "failed"}
    assert sweep_facts(sweep, {**rows, DEFAULT: failed})["defaults_are_better"] is False


@pytest.mark.parametrize(("default", "said"), [(1.58, True), (1.3, False)])
def test_the_console_says_that_the_defaults_are_better(default: float, said: bool) -> None:
    rows = {name: complete(name, value) for name, value in (("0000", 1.49), (DEFAULT, default))}
    caption = str(trials_table(parse_sweep(RAW), rows).caption or "")
    assert ("the defaults are better than the best trial" in caption) == said


def test_of_a_front_the_defaults_must_beat_every_trial() -> None:
    sweep = parse_sweep(changed(objectives=["separation", "seconds"]))
    front = [complete("0000", 1.0, 5.0), complete("0001", 0.5, 2.0)]
    assert not defaults_are_better(sweep, complete(DEFAULT, 1.1, 5.0), front)
    assert defaults_are_better(sweep, complete(DEFAULT, 1.1, 1.0), front)
