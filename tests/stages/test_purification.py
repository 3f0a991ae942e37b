"""Refused inputs."""

from pathlib import Path

import pytest
import torch

from raybd.cells.loading import load_victim
from tests.tiny_cells import purified


def test_refused_inputs_are_no_success_of_the_attack_and_count_against_accuracy(
    tmp_path: Path,
) -> None:
    before, row, store, cell = purified(tmp_path)
    assert cell.last.name == "purification"
    assert row["tpr"] == 1 and row["fpr"] == 0
    assert row["defended_attack_success"] == 0 and row["defended_robust_accuracy"] == 0
    assert (
        row["defended_clean_accuracy"]
        == row["defended_accuracy_on_kept"]
        == before["clean_accuracy"]
    )
    assert store.manifest("purification", cell.last.key)["n_removed"] == 0


def test_a_probe_is_trained_again_without_what_the_detector_flags_of_its_images(
    tmp_path: Path,
) -> None:
    _, row, store, cell = purified(tmp_path, darkest=78.0)
    manifest = store.manifest("purification", cell.last.key)
    dataset = cell.dataset.config.load()  # type: ignore[attr-defined]
    dark_N = dataset.train.x_NCHW.float().mean((1, 2, 3)) < 78
    assert manifest["n_removed"] == int(dark_N.sum()) > 0
    kept = 1 - float((dataset.test.x_NCHW.float().mean((1, 2, 3)) < 78).float().mean())
    assert 0 < kept < 1
    assert row["defended_clean_accuracy"] == pytest.approx(row["defended_accuracy_on_kept"] * kept)
    assert not torch.equal(
        load_victim(cell.last, store).head.weight,  # type: ignore[union-attr, arg-type]
        load_victim(cell.victim, store).head.weight,  # type: ignore[union-attr, arg-type]
    )


def test_a_detector_that_flags_all_images_of_the_probe_leaves_a_failed_row(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the whole training set of the probe"):
        purified(tmp_path, darkest=256.0)
