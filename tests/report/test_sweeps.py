"""What the page shows of a sweep: studies and rows as the engine writes them, also damaged."""

import json
import math
import re
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from scipy.stats import spearmanr

from raybd.report.site import write_report
from raybd.report.sweeps.drawing import MIN_TRIALS, importance
from raybd.report.sweeps.find import find_sweeps
from raybd.report.sweeps.stored import StoredSweep
from raybd.results.store import Store
from raybd.sweeps.file import parse_sweep
from raybd.sweeps.sweep import Sweep
from raybd.types.errors import UserError
from tests.report.test_report import BLANK, HOSTILE, Page, page

RAW: dict[str, Any] = {
    "name": "tuned",
    "experiment": {
        "datasets": [{"kind": "digits", "limit": 600, "clean": 60}],
        "attacks": [{"kind": "badnets"}],
        "trainers": [{"kind": "supervised", "network": "small_cnn", "epochs": 1}],
        "detectors": [{"kind": "asset"}],
    },
    "search": {
        "detectors.0": dict.fromkeys(("concentrate", "select", "top", "cut", "lr_min", "epochs"))
    },
    "objectives": ["separation"],
    "held_out": {"attacks": [{"kind": "blended"}]},
}
LR = "detectors.0.lr_min"
TRIAL = {
    "sweep": None,
    "seed": 0,
    "oracle_objective": False,
    "commit": "abc123",
    "seconds": 2.0,
    "gpu_seconds": 0.0,
}


def measured(sweep: Sweep, params: dict[str, Any], number: int) -> dict[str, float]:
    """Better where lr_min is high, and longer where there are more epochs."""
    good = math.log10(params.get(LR, 1e-3) / 3e-5) / 2
    epochs = params.get("detectors.0.epochs", 3)
    known = {
        "separation": good,
        "auroc": 0.5 + 0.4 * good + 0.05 * (number % 3),
        "seconds": epochs + 0.01 * number,
        "held_out_error": 1 - good,
    }
    return {objective.name: known[objective.name] for objective in sweep.objectives} | {
        "auroc": known["auroc"]
    }


def row(
    sweep: Sweep, trial: str, params: dict[str, Any], found: dict[str, float] | None, **more: Any
) -> dict[str, Any]:
    wanted = (
        {objective.name: found[objective.name] for objective in sweep.objectives} if found else {}
    )
    numbers = {f"objective_{i}": value for i, value in enumerate(wanted.values())}
    row = {
        **TRIAL,
        "trial": trial,
        "params": json.dumps(params, sort_keys=True),
        "state": "complete" if found else "failed",
        **numbers,
    }
    return {
        **row,
        "objectives": json.dumps(wanted, sort_keys=True) if found else None,
        "auroc": found["auroc"] if found else None,
        **more,
    }


def run(store: Store, trials: int = 20, told: bool = True, **changed: Any) -> optuna.Study:
    """A sweep as the engine leaves it; the last three trials failed, each in another way."""
    sweep = parse_sweep({**RAW, **changed})
    path = Path(store.at(f"sweeps/{sweep.name}/study.journal"))
    path.parent.mkdir(parents=True)
    directions = [objective.direction for objective in sweep.objectives]
    sampler = optuna.samplers.RandomSampler(seed=0)
    storage = optuna.storages.InMemoryStorage()
    study = optuna.create_study(
        study_name=sweep.name, storage=storage, directions=directions, sampler=sampler
    )
    if told:
        study.set_user_attr("sweep", sweep.about)
    store.write_trial(sweep.name, row(sweep, "default", {}, measured(sweep, {}, 0)))
    for number in range(trials):
        trial = study.ask()
        params = sweep.suggest(trial)
        found = measured(sweep, params, number)
        study.tell(trial, [found[objective.name] for objective in sweep.objectives])
        store.write_trial(sweep.name, row(sweep, f"{number:04d}", params, found))
    for at, (state, error, told_as) in enumerate(
        [
            ("failed", f"RuntimeError: {HOSTILE}", "FAIL"),
            ("infeasible", "lr_max is too low", "PRUNED"),
            ("pruned", "behind the median after epoch 2", "PRUNED"),
        ]
    ):
        trial = study.ask()
        store.write_trial(
            sweep.name,
            row(sweep, f"{trials + at:04d}", sweep.suggest(trial), None, state=state, error=error),
        )
        study.tell(trial, state=TrialState[told_as])
    # A journal waits for the disk at each of its lines. Copying writes one line for each trial.
    optuna.copy_study(
        from_study_name=sweep.name,
        from_storage=storage,
        to_storage=JournalStorage(JournalFileBackend(str(path))),
    )
    return study


def compare(store: Store) -> None:
    """The comparison at the end of a sweep."""
    for attack, default, best in (("badnets", 0.8, 0.95), ("blended", 0.7, 0.65)):
        for defense, auroc in (("none", None), ("asset", default), ("asset_best", best)):
            names = {
                "cell": f"{attack}-{defense}",
                "experiment": "tuned_best",
                "attack": attack,
                "defense": defense,
            }
            role = "none" if auroc is None else "detector"
            config = {
                "attack": {"kind": attack},
                "defense": None if auroc is None else {"kind": "asset", "name": defense},
                "stages": {},
            }
            store.write_cell(
                {
                    **BLANK,
                    **names,
                    "defense_role": role,
                    "auroc": auroc,
                    "attack_success": 1.0,
                    "config": json.dumps(config),
                }
            )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "results"))


def sweep_of(store: Store) -> StoredSweep:
    (found,), _ = find_sweeps(store)
    return found


def html(store: Store) -> str:
    """The sections of the sweeps, as they are written."""
    return "".join(
        re.findall(
            r'<section class="sweep".*?</section>',
            Path(write_report(store)).read_text(encoding="utf-8"),
            re.DOTALL,
        )
    )


def text(store: Store) -> str:
    return " ".join(Page(html(store)).text.split())


def test_a_store_of_trials_alone_becomes_a_page(store: Store) -> None:
    run(store)
    found = page(store)
    assert len(found.data["sweeps"][0]["trial"]) == 20
    ids = {attributes.get("id") for _, attributes in found.elements}
    links = [str(attributes["href"]) for tag, attributes in found.elements if tag == "a"]
    assert "#sweep-0" in links
    assert all(link.startswith("#") and link[1:] in ids for link in links)
    assert "Cells" not in found.text and "Experiments" not in found.text


def test_a_store_without_sweeps_has_no_section_of_them(store: Store) -> None:
    compare(store)
    found = page(store)
    assert found.data["sweeps"] == []
    assert "Sweep" not in found.text


def test_the_default_stands_first_and_then_the_trials_by_their_objective(store: Store) -> None:
    study = run(store)
    trials = sweep_of(store).table()
    order = sorted(study.get_trials(states=(TrialState.COMPLETE,)), key=lambda trial: -trial.value)
    assert [trial["trial"] for trial in trials] == [
        "default",
        *(f"{trial.number:04d}" for trial in order),
        "0022",
        "0020",
        "0021",
    ]
    assert [trial.mark for trial in trials][:3] == ["default", "best", ""]
    shown = re.findall(r"<tr><td>(default|\d{4})", html(store))
    assert shown == [trial["trial"] for trial in trials]


def test_what_came_to_nothing_is_shown_with_its_reason(store: Store) -> None:
    run(store)
    said = text(store)
    assert all(
        reason in said
        for reason in (
            "lr_max is too low",
            "behind the median after epoch 2",
            "RuntimeError: </script>",
        )
    )
    assert "23 trials: 20 complete, 1 pruned, 1 failed, 1 infeasible" in said
    assert page(store).data["sweeps"][0]["others"] == {
        "complete": [f"{i:04d}" for i in range(20)],
        "failed": ["0020"],
        "infeasible": ["0021"],
        "pruned": ["0022"],
    }


def test_the_best_so_far_never_gets_worse_and_ends_at_the_best(store: Store) -> None:
    study = run(store, objectives=["held_out_error"])
    drawn = page(store).data["sweeps"][0]
    assert drawn["value"][0] == pytest.approx(
        [trial.value for trial in study.trials[:20]], rel=1e-4
    )
    assert drawn["so_far"][0] == sorted(drawn["so_far"][0], reverse=True)
    assert drawn["so_far"][0][-1] == pytest.approx(study.best_value, rel=1e-4)
    assert drawn["best"] == [study.best_trial.number]
    assert drawn["default"]["value"] == [pytest.approx(1 - math.log10(1e-3 / 3e-5) / 2, rel=1e-4)]


def test_each_objective_says_which_way_is_better_and_whether_it_is_an_oracles(store: Store) -> None:
    run(store, objectives=["auroc", "seconds"])
    said = text(store)
    assert re.search(
        r"objectives: auroc ↑ ?oracle higher is better, seconds ↓ lower is better", said
    )
    assert [objective["oracle"] for objective in page(store).data["sweeps"][0]["objectives"]] == [
        True,
        False,
    ]


def test_a_sweep_without_labels_bears_no_oracle_badge_but_that_of_the_column(store: Store) -> None:
    run(store)
    assert html(store).count('class="oracle"') == 1
    assert "AUROC oracle" in text(store)


def test_the_front_is_that_of_optuna(store: Store) -> None:
    study = run(store, objectives=["auroc", "seconds"])
    assert 1 < len(study.best_trials) < 20
    assert page(store).data["sweeps"][0]["best"] == sorted(
        trial.number for trial in study.best_trials
    )
    assert text(store).count("on the front") == len(study.best_trials)


def test_the_rank_correlation_with_the_oracle_is_shown_for_what_needs_no_labels(
    store: Store,
) -> None:
    run(store, objectives=["separation", "seconds", "auroc"])
    frame = store.trials().query("trial != 'default'").dropna(subset="objective_0")
    drawn = page(store).data["sweeps"][0]
    assert drawn["correlation"] == {
        "0": pytest.approx(spearmanr(frame["objective_0"], frame["auroc"]).statistic, rel=1e-4)
    }
    assert drawn["auroc"] == pytest.approx(list(frame["auroc"]), rel=1e-4)


def test_the_parameter_that_matters_is_the_most_important(store: Store) -> None:
    run(store, trials=60)
    drawn = page(store).data["sweeps"][0]["importance"]
    assert drawn["params"][0] == ["lr_min", 60]
    assert drawn["top"] == 6 and drawn["n"] == 60
    (name, shares), (oracle, _) = drawn["targets"]
    assert name == "separation" and oracle == "AUROC (oracle)"
    assert sum(shares) == pytest.approx(1, abs=1e-3) and shares[0] > 0.6
    having = sum(
        "detectors.0.top" in json.loads(params)
        for params in store.trials().query("state == 'complete'")["params"]
    )
    assert ["top", having] in drawn["params"] and 0 < having < 60


def test_too_few_trials_say_nothing_of_importance(store: Store) -> None:
    run(store, trials=MIN_TRIALS - 1)
    assert importance(sweep_of(store)) == {
        "missing": "it takes at least 15 finished trials, and there are 14"
    }


def test_a_log_range_has_a_log_axis(store: Store) -> None:
    study = run(store)
    axes = {axis["title"]: axis for axis in page(store).data["sweeps"][0]["parallel"]["axes"]}
    expected = [math.log(trial.params[LR] / 3e-5) / math.log(100) for trial in study.trials[:20]]
    assert axes["lr_min"]["at"] == pytest.approx(expected, rel=1e-3, abs=1e-4)
    assert [tick for _, tick in axes["lr_min"]["ticks"]] == ["3e-05", "0.0001", "0.001", "0.003"]
    assert axes["lr_min"]["default"] == pytest.approx(
        math.log(1e-3 / 3e-5) / math.log(100), rel=1e-3
    )
    assert axes["cut"]["log"] is False


def test_words_have_bands_and_what_a_trial_lacks_lies_below(store: Store) -> None:
    study = run(store)
    axes = {axis["title"]: axis for axis in page(store).data["sweeps"][0]["parallel"]["axes"]}
    middles = {word: height for height, word in axes["select"]["ticks"]}
    assert set(middles) == {"top", "outlying", "not used"}
    for trial, height in zip(study.trials[:20], axes["select"]["at"], strict=True):
        assert abs(height - middles[trial.params.get("detectors.0.select", "not used")]) < 0.16
        assert (height < 0) == ("detectors.0.select" not in trial.params)
    for trial, height in zip(study.trials[:20], axes["cut"]["at"], strict=True):
        assert (height < 0) == ("detectors.0.cut" not in trial.params)
    assert axes["cut"]["default"] < 0 < axes["top"]["default"]


@pytest.mark.parametrize(("default", "said"), [(9.0, True), (-9.0, False)])
def test_the_page_says_that_the_defaults_are_better(
    default: float, said: bool, tmp_path: Path
) -> None:
    store = Store(str(tmp_path))
    run(store, trials=3)
    sweep = parse_sweep(RAW)
    found = {"separation": default, "auroc": 0.9}
    store.write_trial(sweep.name, row(sweep, "default", {}, found))
    assert ("The defaults are better than the best trial" in page(store).text) == said


def test_better_is_up_on_the_axes_of_the_objectives(store: Store) -> None:
    run(store, objectives=["auroc", "seconds"])
    drawn = page(store).data["sweeps"][0]
    *_, auroc, seconds = drawn["parallel"]["axes"]
    assert max(range(20), key=lambda i: auroc["at"][i]) == max(
        range(20), key=lambda i: drawn["value"][0][i]
    )
    assert max(range(20), key=lambda i: seconds["at"][i]) == min(
        range(20), key=lambda i: drawn["value"][1][i]
    )
    assert drawn["parallel"]["order"][-1] == max(range(20), key=lambda i: drawn["value"][0][i])


def test_the_defaults_stand_beside_the_best_values_on_every_attack(store: Store) -> None:
    run(store)
    compare(store)
    (first, second) = sweep_of(store).compared(tables_of(store))
    assert [(pair.default["attack"], pair.held_out) for pair in (first, second)] == [
        ("badnets", False),
        ("blended", True),
    ]
    assert [(pair.default["defense"], pair.best["defense"]) for pair in (first, second)] == [
        ("asset", "asset_best")
    ] * 2
    pairs = html(store).split('class="pairs"')[1].split("</table>")[0]
    assert re.findall(r"0\.\d{3}", Page(pairs).text.replace("1.000", "")) == [
        "0.800",
        "0.950",
        "0.700",
        "0.650",
    ]
    assert pairs.count("held out") == 1 and "held out" in pairs.split("blended")[1]


def tables_of(store: Store) -> Any:
    from raybd.report.cells.tables import tables

    cells = store.cells().astype(object)
    return tables(cells.where(cells.notna(), None).to_dict("records"))[0]


def test_a_comparison_that_is_not_there_is_said_to_be_missing(store: Store) -> None:
    run(store)
    assert "tuned_best is not in the store, because the sweep was not finished" in text(store)


def test_what_is_searched_stands_there_with_its_condition_and_default(store: Store) -> None:
    run(store)
    said = text(store)
    assert re.search(r"detectors\.0\.lr_min ?3e-05 to 0\.003 \(log\); default 0\.001", said)
    assert re.search(r"detectors\.0\.cut[^;]*where select is outlying ?detectors", said)


def test_a_sweep_tells_its_reader_what_the_trials_do_not() -> None:
    about = parse_sweep(RAW).about
    assert about["objectives"] == [{"name": "separation", "direction": "maximize"}]
    assert about["held_out"] == ["blended"]
    assert (
        about["defaults"]["detectors.0.select"] == "top"
        and "detectors.0.cut" not in about["defaults"]
    )
    assert json.loads(json.dumps(about)) == about


@pytest.mark.parametrize("damage", ["missing", "garbage", "cut", "other"])
def test_without_its_study_a_sweep_is_shown_by_its_rows(store: Store, damage: str) -> None:
    run(store, objectives=["separation", "seconds"])
    path = Path(store.at("sweeps/tuned/study.journal"))
    whole = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(
            {
                "garbage": b"\x00\xff not a journal\n" + whole,
                "cut": b"",
                "other": whole.replace(b'"tuned"', b'"else"'),
            }[damage]
        )
    found = page(store)
    drawn = found.data["sweeps"][0]
    assert (
        "study.journal is missing" if damage == "missing" else "study.journal can't be read"
    ) in found.text
    assert [(one["name"], one["direction"]) for one in drawn["objectives"]] == [
        ("separation", "maximize"),
        ("seconds", "minimize"),
    ]
    assert "can't be read" in drawn["importance"]["missing"]
    assert len(drawn["trial"]) == 20 and drawn["parallel"]["axes"]


def test_an_unknown_direction_leaves_a_table_and_says_so(store: Store) -> None:
    run(store, objectives=[{"held_out_error": "minimize"}])
    frame = store.trials()
    for old in frame.astype(object).where(frame.notna(), None).to_dict("records"):
        renamed = (old["objectives"] or "").replace("held_out_error", "mine") or None
        store.write_trial("tuned", {**old, "objectives": renamed})
    store.remove("sweeps/tuned")
    found = page(store)
    assert "it is not known which way the objectives are better" in found.text
    assert found.data["sweeps"] == [{}]
    assert len(sweep_of(store).table()) == 24


def test_a_study_that_says_only_the_directions_is_read_too(store: Store) -> None:
    run(store, told=False, objectives=["separation", "seconds"])
    found = page(store)
    assert [(one["name"], one["direction"]) for one in found.data["sweeps"][0]["objectives"]] == [
        ("separation", "maximize"),
        ("seconds", "minimize"),
    ]
    assert "study.journal" not in found.text
    assert found.data["sweeps"][0]["importance"]["n"] == 20


def test_the_half_line_of_a_killed_driver_does_no_harm(store: Store) -> None:
    run(store)
    with Path(store.at("sweeps/tuned/study.journal")).open("ab") as file:
        file.write(b'{"op_code": 4, "worker')
    found = page(store)
    assert "study.journal" not in found.text
    assert found.data["sweeps"][0]["importance"]["n"] == 20


def test_the_study_is_left_as_it_is(store: Store) -> None:
    run(store)
    path = Path(store.at("sweeps/tuned/study.journal"))
    before = path.read_bytes()
    write_report(store)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["study.journal"]


def test_an_unreadable_trial_is_set_aside_and_said(store: Store) -> None:
    run(store)
    store.write("trials/sweep=tuned/0003.parquet", b"half a f")
    found = page(store)
    assert "1 row of the trials table could not be read" in found.text
    assert len(found.data["sweeps"][0]["trial"]) == 19


def test_values_that_can_not_be_read_leave_the_trial(store: Store) -> None:
    run(store, trials=2)
    sweep = parse_sweep(RAW)
    store.write_trial(
        "tuned", {**row(sweep, "0001", {}, measured(sweep, {}, 1)), "params": '{"detectors.0'}
    )
    assert page(store).data["sweeps"][0]["trial"] == ["0000", "0001"]


def test_a_study_without_trials_and_a_sweep_of_failures_are_pages_too(store: Store) -> None:
    run(store, trials=0)
    assert "No trial has a result" in text(store)
    store.remove("trials")
    assert "trials/sweep=tuned holds no trial" in text(store)
    store.remove("sweeps")
    with pytest.raises(UserError, match="holds no cells"):
        write_report(store)


def test_names_from_a_sweep_never_become_markup_or_code(store: Store) -> None:
    run(store)
    sweep = parse_sweep(RAW)
    params = {"detectors.0.select": HOSTILE, HOSTILE: 1.0}
    store.write_trial("tuned", row(sweep, "0001", params, measured(sweep, {}, 1), commit=HOSTILE))
    whole = Path(write_report(store)).read_text(encoding="utf-8")
    assert (
        "<script>alert" not in whole and "<img src=x" not in whole and whole.count("</script>") == 2
    )
    assert not set("<>&\u2028") & set(Page(whole).scripts[0])
    assert HOSTILE in Page(whole).text


def test_two_pages_of_one_sweep_differ_in_their_time_only(store: Store) -> None:
    run(store, objectives=["separation", "seconds"])
    compare(store)
    first, second = (
        re.sub(r"This page</dt><dd>.*?</dd>", "", Path(write_report(store)).read_text())
        for _ in range(2)
    )
    assert first == second


def test_five_hundred_trials_stay_a_small_page(store: Store) -> None:
    run(store, trials=1)
    small = len(Path(write_report(store)).read_bytes())
    large = Store(f"{store.root}-large")
    run(large, trials=500)
    assert len(Path(write_report(large)).read_bytes()) - small < 400_000


TOLD: dict[str, Any] = {
    "a list": [1, 2],
    "a text": "x",
    "objectives of texts": {"objectives": ["auroc"]},
    "objectives without a name": {"objectives": [{"direction": "maximize"}]},
    "a direction that is none": {"objectives": [{"name": "auroc", "direction": "up"}]},
    "many objectives": {"objectives": [{"name": "auroc", "direction": "maximize"}] * 50},
    "a space of lists": {"space": [1], "defaults": 3, "held_out": 7},
    "values of lists": {"space": {"a": [1]}, "defaults": {"a": {"b": 1}, "c": 1e400}},
}


@pytest.mark.parametrize("what", TOLD)
def test_a_study_that_somebody_else_wrote_leaves_a_page(store: Store, what: str) -> None:
    run(store, trials=4)
    path = Path(store.at("sweeps/tuned/study.journal"))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        if "sweep" in line.get("user_attr", {}):
            line["user_attr"]["sweep"] = TOLD[what]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "Sweep tuned" in text(store)


@pytest.mark.parametrize(
    "changed",
    [
        {"objective_0": float("inf")},
        {"objective_0": 1e308, "auroc": None},
        {"params": '{"detectors.0.cut": [1]}'},
        {"params": '{"detectors.0.cut": NaN, "detectors.0.lr_max": 1e400}'},
        {"params": '{"detectors.0.lr_max": ' + "9" * 400 + "}"},
        {"objectives": "[" * 100_000},
    ],
)
def test_a_trial_that_somebody_else_wrote_leaves_a_page(
    store: Store, changed: dict[str, Any]
) -> None:
    run(store, trials=4)
    old = store.trial("tuned", "0001")
    assert old is not None
    store.write_trial("tuned", {**old, **changed})
    assert "Sweep tuned" in text(store)
