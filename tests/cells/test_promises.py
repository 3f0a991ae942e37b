"""A method that returns another shape than it promises is named, with what was expected."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from raybd.cells.promises import check_overlay
from raybd.cells.run import run_cell
from raybd.results.store import Store
from raybd.types.data import POISON, Poisoned, Split
from raybd.types.errors import UserError
from tests.tiny_cells import one_cell

FAULTS = {
    "few": "score_N has the shape [299]; expected [300]",
    "column": "score_N has the shape [300, 1]; expected [300]",
    "thresholds": "threshold_N has the shape [2]; expected [300] or [1] or []",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_detector_with_a_wrong_shape_is_named_in_its_row(fault: str, tmp_path: Path) -> None:
    detector = {"kind": "tests.methods.wrong_shapes", "name": "mine", "fault": fault}
    store = Store(str(tmp_path))
    with pytest.raises(UserError):
        run_cell(one_cell(detectors=[detector], removal=False), store)
    (row,) = store.cells().to_dict("records")
    assert row["status"] == "failed"
    assert f"mine: Suspicion.{FAULTS[fault]}" in row["error"]
    assert "raybd.types.methods" in row["error"]


TRAIN = Split(torch.zeros((10, 3, 4, 4), dtype=torch.uint8), torch.zeros(10, dtype=torch.int64))
SOUND = Poisoned(
    index_M=torch.tensor([3, 9]),
    x_MCHW=TRAIN.x_NCHW[:2],
    y_M=torch.tensor([0, 0]),
    role_M=torch.full((2,), POISON, dtype=torch.int8),
    trigger=lambda x_NCHW, wanted_N: x_NCHW,
    labels=None,  # type: ignore[arg-type]
)
OVERLAYS: list[tuple[dict[str, Any], str]] = [
    ({"x_MCHW": TRAIN.x_NCHW[:1]}, "x_MCHW has the shape [1, 3, 4, 4]; expected [2, 3, 4, 4]"),
    ({"x_MCHW": TRAIN.x_NCHW[:2, :1]}, "x_MCHW has the shape [2, 1, 4, 4]"),
    ({"x_MCHW": TRAIN.x_NCHW[:2].float()}, "x_MCHW holds torch.float32; expected torch.uint8"),
    ({"y_M": torch.tensor([0])}, "y_M has the shape [1]; expected [2]"),
    ({"index_M": torch.tensor([3, 10])}, "index_M names row 10; the training set has 10 rows"),
    ({"index_M": torch.tensor([-1, 3])}, "the training set has 10 rows"),
]


@pytest.mark.parametrize(("changed", "what"), OVERLAYS, ids=[what for _, what in OVERLAYS])
def test_an_overlay_with_a_wrong_shape_is_named(changed: dict[str, Any], what: str) -> None:
    check_overlay("mine", SOUND, TRAIN)
    with pytest.raises(UserError) as found:
        check_overlay("mine", replace(SOUND, **changed), TRAIN)
    assert found.value.what.startswith("mine: Poisoned.")
    assert what in found.value.what
