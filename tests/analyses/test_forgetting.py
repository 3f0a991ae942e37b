"""Forgetting: events by hand, and what a repair does to single predictions."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

import raybd
from raybd.analyses.forgetting import Forgetting, statistics
from raybd.cells.answers import answers
from raybd.cells.run import run_cell
from raybd.metrics.statistics.pairs import mcnemar
from raybd.plan.file import parse
from raybd.results.store import Store
from tests.analyses.given import given, some_pairs
from tests.tiny_cells import LIGHT, TINY


def bits(*words: str) -> Tensor:
    return torch.tensor([[letter == "1" for letter in word] for word in words])


def test_events_are_counted_as_by_hand() -> None:
    correct_NE = bits("0110100", "0000000", "1111111", "0000001")
    margin_NE = torch.arange(28.0).view(4, 7)
    found = statistics(correct_NE, margin_NE, -margin_NE)
    assert found["learned_epoch"].tolist() == [1, 7, 0, 6]
    assert found["forgets"].tolist() == [2, 0, 0, 0]
    assert found["aum"].tolist() == [3, 10, 17, 24]
    assert found["final_loss"].tolist() == [-6, -13, -20, -27]


def test_poison_that_is_learned_at_once_is_told_by_it() -> None:
    victim, pairs = some_pairs()
    correct_NE = bits("011", "000", "111", "111", "111")
    values_NE = torch.tensor([[0.0], [1], [2], [3], [9]]).expand(5, 3)
    kept = {"correct_NE": correct_NE, "margin_NE": values_NE, "loss_NE": -values_NE}
    # The last image is a canary, and no sample.
    role_N = torch.tensor([0, 0, 1, 1, 3], dtype=torch.int8)
    table = Forgetting().analyse(
        given(victim, pairs, trajectories=kept, role_N=role_N), torch.Generator()
    )
    rows = table.to_pylist()
    images = [row for row in rows if row["kind"] == "image"]
    assert [row["role"] for row in images] == ["clean", "clean", "poison", "poison"]
    assert [row["learned_epoch"] for row in images] == [1, None, 0, 0]
    told = {row["statistic"]: row["value"] for row in rows if row["kind"] == "auroc"}
    assert told == {
        "learned_early": 1,
        "rarely_forgotten": 0.5,
        "large_margin": 1,
        "small_loss": 1,
    }


def test_what_a_defense_changes_is_as_by_hand() -> None:
    """Four clean images, and four with the trigger: freed, kept, never won, a third label."""
    victim, pairs = some_pairs()
    clean_N = torch.tensor([0, 1, 2, 2])
    worn_M, wanted_M = torch.tensor([1, 2, 2, 1]), torch.zeros(4).long()

    def said(clean: list[int], worn: list[int]) -> object:
        import pyarrow as pa

        one = answers("test_clean", torch.arange(4), clean_N, torch.eye(3)[clean])
        other = answers("test_triggered", torch.arange(4), worn_M, torch.eye(3)[worn], wanted_M)
        return pa.concat_tables([one, other])

    table = Forgetting().analyse(
        given(
            victim,
            pairs,
            before=said([0, 1, 2, 0], [0, 0, 2, 0]),
            predictions=said([0, 2, 2, 2], [1, 0, 2, 2]),
        ),
        torch.Generator(),
    )
    rows = table.to_pylist()
    change = {row["statistic"]: row for row in rows if row["kind"] == "change"}
    assert {name: row["n"] for name, row in change.items()} == {
        "lost": 3,
        "recovered": 3,
        "remembered": 3,
        "clean_accuracy": 4,
        "attack_success": 4,
    }
    assert change["lost"]["value"] == pytest.approx(1 / 3)
    third = pytest.approx(1 / 3)
    assert change["recovered"]["value"] == change["remembered"]["value"] == third
    assert change["recovered"]["low"] == pytest.approx(0.0615, abs=1e-3)
    # One is lost, and one is won.
    assert change["clean_accuracy"]["value"] == 0
    assert change["clean_accuracy"]["p"] == mcnemar(1, 1)
    assert change["attack_success"]["value"] == pytest.approx(-0.5)
    assert change["attack_success"]["p"] == mcnemar(2, 0)
    moved = [row for row in rows if row["kind"] == "moved"]
    assert sum(row["n"] for row in moved) == 8
    (freed,) = [row for row in moved if (row["true"], row["before"], row["after"]) == (1, 0, 1)]
    assert freed["pool"] == "test_triggered"


def test_a_victim_of_which_nothing_was_kept_has_no_rows() -> None:
    victim, pairs = some_pairs()
    assert len(Forgetting().analyse(given(victim, pairs), torch.Generator())) == 0


def test_an_experiment_compares_a_repaired_victim_with_the_undefended_one(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    asked = {
        **TINY,
        "detectors": [],
        "repairs": [{"kind": "fine_tune", **LIGHT}],
        "analyses": [{"kind": "forgetting"}],
        "keep_trajectories": True,
    }
    undefended, repaired = (run_cell(cell, store) for cell in parse(asked).cells())
    frame = raybd.load_analysis("forgetting", tmp_path)
    assert set(frame.loc[frame["stage"] == "victim", "kind"]) == {"image", "auroc"}
    after = frame[frame["stage"] == "repair"]
    assert set(after["kind"]) == {"change", "moved"}
    values = after[after["kind"] == "change"].set_index("statistic")["value"]
    for name in ("clean_accuracy", "attack_success"):
        expected = repaired[f"defended_{name}"] - undefended[name]
        assert values.get(name) == pytest.approx(expected)
