"""A measure of the cells of a row: which interval it gets, and from what."""

from typing import Any

import pytest

from raybd.metrics.catalogue import BY_NAME, SHARES
from raybd.metrics.statistics.over_cells import estimate
from raybd.metrics.statistics.seeds import over_seeds, share_over_seeds
from raybd.metrics.statistics.shares import wilson

FPR, AUROC, SCAN = (BY_NAME[name] for name in ("fpr", "auroc", "model_score"))


def rows(*values: float | None, name: str = "fpr", **more: Any) -> list[dict[str, Any]]:
    return [{name: value, **more} for value in values]


def test_a_share_of_one_seed_has_wilsons_interval_over_its_samples() -> None:
    found = estimate(rows(0.01, scored_clean=900), FPR)
    assert found is not None
    assert (found.low, found.high) == pytest.approx((0.0053, 0.0189), abs=5e-5)
    assert found.low == pytest.approx(wilson(9, 900).low)


def test_a_share_over_seeds_has_the_spread_of_seeds_and_samples() -> None:
    cells = rows(0.1, 0.2, None, scored_clean=50)
    cells[1]["scored_clean"] = 40
    assert estimate(cells, FPR) == share_over_seeds([0.1, 0.2], 40)


def test_a_row_of_an_older_store_knows_of_its_seeds_alone() -> None:
    assert estimate(rows(0.1, 0.2), FPR) == over_seeds([0.1, 0.2]).within(0, 1)
    alone = estimate(rows(0.1), FPR)
    assert alone is not None
    assert (alone.value, alone.low) == (0.1, None)


def test_an_auroc_of_one_seed_has_the_ends_that_its_row_holds() -> None:
    found = estimate(rows(0.9, name="auroc", auroc_low=0.8, auroc_high=0.95), AUROC)
    assert found is not None
    assert (found.value, found.low, found.high) == (0.9, 0.8, 0.95)
    over = estimate(rows(0.9, 0.8, 0.7, name="auroc", auroc_low=0.6, auroc_high=1.0), AUROC)
    assert over == over_seeds([0.9, 0.8, 0.7]).within(0, 1)


def test_what_is_no_share_is_not_cut_off() -> None:
    found = estimate(rows(1.0, 9.0, name="model_score"), SCAN)
    assert found is not None
    assert found.high is not None
    assert found.high > 9
    assert "auroc_over_control" not in SHARES
    assert "model_score" not in SHARES


def test_a_number_that_no_row_has_has_no_estimate() -> None:
    assert estimate(rows(None, None), FPR) is None
    assert estimate([], FPR) is None
