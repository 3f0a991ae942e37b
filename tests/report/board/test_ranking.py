from typing import Any

import numpy as np
import pandas as pd
import pytest

from raybd.metrics.statistics.ranks import rankings
from raybd.report.board.matrix import matrix, ranked
from raybd.report.board.measures import BY_TRACK
from raybd.report.board.ranking import Standings, standings
from raybd.report.board.rows import rows_of
from tests.report.board.synthetic import synthetic

DETECTORS = BY_TRACK["detectors"]
DEFENSES = BY_TRACK["defenses"]
SCANNERS = BY_TRACK["scanners"]
PROBLEM = ["dataset", "network", "trainer", "kind", "rate"]


def given(n: int = 2046) -> list[dict[str, Any]]:
    return synthetic(n)


def found(cells: list[dict[str, Any]], track: str = "detectors") -> Standings:
    return standings(rows_of(cells), BY_TRACK[track])


def standing(cells: list[dict[str, Any]], method: str, track: str = "detectors") -> Any:
    return next(one for one in found(cells, track).methods if one.method == method)


def change(cells: list[dict[str, Any]], column: str, value: Any, **where: Any) -> None:
    hits = [c for c in cells if all(c[name] == wanted for name, wanted in where.items())]
    assert hits
    for cell in hits:
        cell[column] = value


def test_the_ranking_is_that_of_the_statistics() -> None:
    cells = [cell for cell in given() if cell["defense_role"] == "detector"]
    frame = pd.DataFrame(cells)
    frame["kind"] = frame["attack"].str.replace(r"_\d$", "", regex=True)
    frame = frame[(frame["kind"] != "none")]
    # The attack failed, or may have: the cells that failed do not tell.
    weak = frame[frame["attack_success"] < 0.5].set_index([*PROBLEM, "seed"]).index
    frame = frame[~frame.set_index([*PROBLEM, "seed"]).index.isin(weak)]
    failed = frame.pivot_table(
        index=PROBLEM, columns="defense", values="status", aggfunc=lambda s: (s == "failed").any()
    ).astype(bool)
    value = frame.pivot_table(index=PROBLEM, columns="defense", values="auroc", dropna=False)
    value = value.reindex(failed.index).where(~failed)
    expected = rankings(
        value.to_numpy(),
        [kind for *_, kind, _ in value.index],
        np.random.default_rng(0),
        [dataset for dataset, *_ in value.index],
        failed.to_numpy(),
    )
    for method, one in zip(value.columns, expected, strict=True):
        assert standing(cells, method).ranking == one


def test_other_names_have_the_same_ranks() -> None:
    cells = given()
    before = {one.method: one.ranking for one in found(cells).methods}
    turned = dict(zip(sorted(before), sorted(before, reverse=True), strict=True))
    for cell in cells:
        cell["defense"] = turned.get(cell["defense"], cell["defense"])
    after = {one.method: one.ranking for one in found(cells).methods}
    for method, other in turned.items():
        one, two = before[method], after[other]
        assert one is not None and two is not None
        assert one.rank.value == pytest.approx(two.rank.value)


def test_a_failed_attack_is_no_problem_and_is_listed() -> None:
    found_one = found(given())
    assert {(one.attack, one.rate) for one in found_one.gated} == {("sig", 0.01)}
    assert not {("sig", 0.01)} & {(one.attack, one.rate) for one in found_one.problems}


def test_a_failed_cell_has_the_worst_rank_and_not_the_neutral_value() -> None:
    cells = given()
    where = {"defense": "anp", "attack": "badnets", "status": "ok"}
    rows = rows_of(cells)
    best = standing(cells, "anp", "defenses").ranking.rank.value
    change(cells, "status", "failed", **where)
    for cell in cells:
        if cell["defense"] == "anp" and cell["attack"] == "badnets":
            cell["defended_clean_accuracy"] = cell["defended_attack_success"] = None
            cell["attack_success"] = cell["clean_accuracy"] = None
    after = standing(cells, "anp", "defenses")
    assert after.ranking.rank.value > best and after.failed >= 1
    assert after.ranking.coverage == 1
    part = ranked(matrix(rows_of(cells), DEFENSES), DEFENSES)
    assert part is not None
    at = [one.attack == "badnets" and one.rate == 0.1 for one in part.problems]
    assert part.failed_PM[at, part.methods.index("anp")].all()
    assert len(rows) == len(rows_of(cells))


def test_an_infeasible_cell_is_out_for_both_sides() -> None:
    cells = given()
    before = found(cells)
    change(cells, "status", "infeasible", defense="strip", attack="badnets", rate=0.1)
    change(cells, "auroc", None, defense="strip", attack="badnets", rate=0.1)
    after = found(cells)
    lost = set(before.problems) - set(after.problems)
    assert lost and {(one.attack, one.rate) for one in lost} == {("badnets", 0.1)}
    strip = next(one for one in after.methods if one.method == "strip")
    assert strip.ranking is not None and strip.ranking.coverage == 1


def test_what_was_not_run_lowers_the_coverage() -> None:
    cells = [
        cell
        for cell in given()
        if not (cell["defense"] == "strip" and cell["attack"].startswith("blended"))
    ]
    strip = standing(cells, "strip")
    assert strip.ranking is not None and 0.8 < strip.ranking.coverage < 1


def test_a_method_that_was_hardly_run_has_no_rank_and_hides_no_others() -> None:
    cells = [
        cell
        for cell in given()
        if cell["defense"] != "strip" or cell["attack"] in ("badnets", "none")
    ]
    strip = standing(cells, "strip")
    assert strip.ranking is None and strip.problems == 1 and strip.mean is not None
    assert standing(cells, "ted").ranking is not None
    assert found(cells).methods[-1].method == "strip"


def test_verdicts_of_an_oracle_are_not_ranked() -> None:
    cells = given()
    change(cells, "oracle", True, defense="ted")
    assert "ted" not in {one.method for one in found(cells).methods}


def test_methods_are_compared_on_the_seeds_that_all_of_them_have() -> None:
    cells = [
        cell
        for cell in given()
        if cell["defense_role"] == "detector" and not (cell["defense"] == "ted" and cell["seed"])
    ]
    part = ranked(matrix(rows_of(cells), DETECTORS), DETECTORS)
    assert part is not None
    assert set(part.seeds.values()) <= {(0,), ()}
    row = part.rows[part.problems[0], "strip"]
    value = part.value_PM[0, part.methods.index("strip")]
    assert value == row.by_seed[0]["auroc"]


def test_the_worst_case_leaves_out_what_costs_too_much_accuracy() -> None:
    cells = given()
    before = standing(cells, "anp", "defenses").worst
    for cell in cells:
        if cell["defense"] == "anp" and cell["attack"] == "wanet" and cell["status"] == "ok":
            # It repairs nothing there, at a price that is over the budget.
            cell["defended_clean_accuracy"] = cell["clean_accuracy"] - 0.031
            cell["defended_attack_success"] = cell["attack_success"]
    after = standing(cells, "anp", "defenses").worst
    assert after.problem.attack != "wanet" or after.problem.rate != 0.1
    assert after.over_budget >= before.over_budget
    for cell in cells:
        if cell["defense"] == "anp" and cell["attack"] == "wanet" and cell["status"] == "ok":
            cell["defended_clean_accuracy"] = cell["clean_accuracy"] - 0.029
    cheap = standing(cells, "anp", "defenses").worst
    assert (cheap.problem.attack, cheap.problem.rate) == ("wanet", 0.1)
    assert cheap.case.own.value == pytest.approx((0 - 0.029 + 1) / 2)


def test_the_benign_control_stands_beside_each_method() -> None:
    cells = given()
    for cell in cells:
        if cell["attack"] == "none" and cell["defense"] == "clp":
            cell["defended_clean_accuracy"] = cell["clean_accuracy"] - 0.25
        if cell["attack"] == "none" and cell["defense"] == "strip":
            cell["fpr"] = 0.125
        if cell["attack"] == "none" and cell["defense"] == "decree":
            cell["n_flagged"] = 1
    assert standing(cells, "clp", "defenses").benign.value == pytest.approx(-0.25)
    assert standing(cells, "strip").benign.value == pytest.approx(0.125)
    assert standing(cells, "decree", "scanners").benign.value == 1
    without = [cell for cell in cells if cell["attack"] != "none"]
    assert standing(without, "strip").benign is None


def test_costs_of_devices_are_not_mixed() -> None:
    cells = given()
    for cell in cells:
        if cell["defense"] == "ted" and cell["seed"] == 0 and cell["device"]:
            cell["device"] = "NVIDIA H100"
            cell["seconds"] = cell["gpu_seconds"] = 2.0
    costs = {cost.device: cost for cost in standing(cells, "ted").costs}
    assert set(costs) == {"cpu", "NVIDIA H100"}
    assert costs["NVIDIA H100"].gpu_seconds == 2.0 and costs["cpu"].gpu_seconds == 0.0


def test_one_method_alone_has_no_rank() -> None:
    cells = [cell for cell in given() if cell["defense"] in ("none", "ted")]
    (alone,) = found(cells).methods
    assert alone.ranking is None and alone.mean is not None and found(cells).problems == ()


def test_differences_are_of_the_first_minus_the_second() -> None:
    track = found(given())
    one = track.differences[0]
    first, second = track.compared[one.first], track.compared[one.second]
    means = {each.method: each.mean for each in track.methods}
    assert one.mean.value == pytest.approx(means[first].value - means[second].value)
    assert one.higher + one.lower <= one.of == means[first].n or one.of > 0
