import json
from pathlib import Path
from typing import Any

from raybd.report.board.trials import sensitivity
from raybd.results.schemas import TRIALS
from raybd.results.store import Store


def trial(number: str, value: float | None, auroc: float | None, **more: Any) -> dict[str, Any]:
    return {
        **dict.fromkeys(TRIALS.names),
        "trial": number,
        "state": "complete",
        "params": "{}",
        "objectives": json.dumps({"separation": value}),
        "objective_0": value,
        "auroc": auroc,
        **more,
    }


def test_a_sweep_is_a_box_of_its_trials_with_the_default_and_the_budget(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    for at in range(5):
        store.write_trial("search", trial(f"{at:04d}", at / 4, 0.5 + at / 10))
    store.write_trial("search", trial("default", 0.375, 0.75))
    store.write_trial("search", trial("0005", None, None, state="failed", error="out of memory"))
    by_measure = {one["measure"]: one for one in sensitivity(store)}
    assert set(by_measure) == {"separation", "AUROC (oracle)"}
    found = by_measure["separation"]
    assert found["box"] == [0, 0.25, 0.5, 0.75, 1] and found["default"] == 0.375
    assert found["trials"] == 6 and found["finished"] == 5
    assert by_measure["AUROC (oracle)"]["default"] == 0.75


def test_a_store_without_sweeps_has_none(tmp_path: Path) -> None:
    assert sensitivity(Store(str(tmp_path))) == []
