"""Dynamics: the numbers of a training by hand, and a backdoor that is learned with low losses."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

import raybd
from raybd.analyses.dynamics import Dynamics
from raybd.cells.run import run_cell
from raybd.plan.file import parse
from raybd.results.schemas import DYNAMICS
from raybd.results.store import Store
from tests.analyses.given import given, some_pairs
from tests.shared_victims import DIGITS

CLEAN = (0.2, 0.4, 0.7, 0.8)
"""Accuracy on clean training images after each epoch; half of the last one is 0.4."""


def analysed(hits: tuple[float, ...], gap: tuple[float, ...], **fields: Any) -> pa.Table:
    victim, pairs = some_pairs()
    tool = Dynamics.model_validate(fields)
    return tool.analyse(given(victim, pairs, dynamics=epochs(hits, gap)), torch.Generator())


def epochs(hits: tuple[float, ...], gap: tuple[float, ...]) -> pa.Table:
    """What is kept of a training: attack success and the gap after each epoch."""
    rows = []
    for at, epoch in enumerate(range(1, 1 + len(hits))):
        about = {"training": "t", "epoch": epoch, "n": 10, "lr": 0.1, "seconds": 1.0}
        rows += [
            {**about, "group": "clean", "accuracy": CLEAN[at]},
            {**about, "group": "poison", "gap_auroc": gap[at], "accuracy": hits[at]},
            {**about, "group": "test_triggered", "success": hits[at]},
        ]
    return pa.Table.from_pylist(rows, schema=DYNAMICS)


def test_the_lead_is_the_epochs_by_which_the_backdoor_is_ahead() -> None:
    table = analysed((0.6, 0.9, 1, 1), (0.7, 0.9, 0.9, 0.6))
    row = table.to_pylist()[0]
    assert (row["t_attack"], row["t_clean"], row["lead"]) == (1, 2, 1)
    # The first of two equal ones.
    assert row["gap_max"] == pytest.approx(0.9)
    assert row["gap_max_epoch"] == 2
    assert len(table) == 12
    assert analysed((0, 0, 0, 0.5), (0.5,) * 4).to_pylist()[0]["lead"] == -2
    assert analysed((0.6, 0.9, 1, 1), (0.7,) * 4, success=0.95).to_pylist()[0]["t_attack"] == 3


def test_a_backdoor_that_is_not_learned_has_no_lead() -> None:
    row = analysed((0, 0.1, 0.2, 0.4), (0.5,) * 4).to_pylist()[0]
    assert (row["t_attack"], row["t_clean"], row["lead"]) == (None, 2, None)


def test_without_kept_dynamics_there_are_no_rows() -> None:
    victim, pairs = some_pairs()
    assert len(Dynamics().analyse(given(victim, pairs), torch.Generator())) == 0


def test_poison_has_the_lower_loss_at_some_epoch_of_badnets(tmp_path: Path) -> None:
    asked = {
        "name": "fast",
        "datasets": [DIGITS],
        "attacks": [{"kind": "badnets", "rate": 0.1}],
        "trainers": [{"kind": "supervised", "network": "small_cnn", "epochs": 4, "lr": 0.05}],
        "analyses": [{"kind": "dynamics"}],
    }
    (cell,) = parse(asked).cells()
    run_cell(cell, Store(str(tmp_path)))
    frame = raybd.load_analysis("dynamics", tmp_path)
    assert frame["gap_max"].iloc[0] > 0.8
    assert frame["epoch"].max() == 4
    # What was kept is what the tool says.
    kept = raybd.load_dynamics(tmp_path)
    assert kept["loss_q50"].tolist() == frame["loss_q50"].tolist()
    assert set(kept["attack"]) == {"badnets"}
