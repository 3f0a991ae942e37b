"""Generalisation: each change by hand, and what a real backdoor needs of its trigger."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from raybd.analyses._trigger_changes import (
    brightened,
    compressed,
    cropped,
    noisy,
    rotated,
    scaled,
    shifted,
    softened,
)
from raybd.analyses.generalisation import Generalisation
from raybd.attacks.data.badnets import BadNets
from raybd.types.errors import UserError
from raybd.types.methods import Pairs
from tests.analyses.given import given, given_of
from tests.shared_victims import DIGITS, SharedVictims
from tests.small_scene import small_scene


def grey(rows: list[list[int]]) -> Tensor:
    """One image of one channel."""
    return torch.tensor([[rows]], dtype=torch.uint8)


PLAIN = grey([[10, 10, 10], [10, 10, 10], [10, 10, 10]])
WORN = grey([[10, 110, 10], [10, 10, 10], [10, 10, 5]])


def test_a_scaled_trigger_is_a_multiple_of_the_difference_in_whole_levels() -> None:
    assert scaled(PLAIN, WORN, 1).equal(WORN)
    assert scaled(PLAIN, WORN, 0).equal(PLAIN)
    # 2.5 is rounded to the even number; nothing leaves 0..255.
    assert scaled(PLAIN, WORN, 0.5).flatten().tolist() == [10, 60, 10, 10, 10, 10, 10, 10, 8]
    assert scaled(PLAIN, WORN, 3)[0, 0, 0, 1] == 255
    assert scaled(PLAIN, WORN, 3)[0, 0, 2, 2] == 0


def test_a_moved_trigger_loses_what_leaves_the_image() -> None:
    assert shifted(PLAIN, WORN, 1, 0)[0, 0].tolist() == [[10, 10, 10], [10, 110, 10], [10, 10, 10]]
    assert shifted(PLAIN, WORN, 0, -1)[0, 0].tolist() == [[110, 10, 10], [10, 10, 10], [10, 5, 10]]
    assert shifted(PLAIN, WORN, 0, 3).equal(PLAIN)
    assert shifted(PLAIN, WORN, 0, 0).equal(WORN)


def test_a_cropped_trigger_keeps_the_positions_nearest_to_its_middle() -> None:
    worn = PLAIN.clone()
    worn[0, 0, 1] = 50
    worn[0, 0, 0, 1] = 60
    # Four positions around (.75, 1): nearest is the middle one, then the one above.
    assert cropped(PLAIN, worn, 0.25)[0, 0].tolist() == [[10, 10, 10], [10, 50, 10], [10, 10, 10]]
    assert cropped(PLAIN, worn, 0.5)[0, 0].tolist() == [[10, 60, 10], [10, 50, 10], [10, 10, 10]]
    assert cropped(PLAIN, worn, 1).equal(worn)
    assert cropped(PLAIN, PLAIN, 0.5).equal(PLAIN)


def test_a_trigger_turns_counterclockwise_around_its_middle() -> None:
    plain = torch.full((1, 1, 5, 5), 10, dtype=torch.uint8)
    worn = plain.clone()
    # An arm to the right, and a fainter one to the left: the middle of both is the centre.
    worn[0, 0, 2, 3], worn[0, 0, 2, 1] = 110, 60
    turned = rotated(plain, worn, 90)
    assert (int(turned[0, 0, 1, 2]), int(turned[0, 0, 3, 2])) == (110, 60)
    assert int((turned != plain).sum()) == 2
    assert rotated(plain, worn, 0).equal(worn)


def test_whole_images_are_stored_blurred_brightened_and_noised() -> None:
    x = torch.randint(256, (2, 3, 8, 8), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    fine, coarse = compressed(x, 95), compressed(x, 10)
    assert fine.shape == x.shape and fine.dtype == torch.uint8
    assert (fine.int() - x.int()).abs().sum() < (coarse.int() - x.int()).abs().sum()
    assert compressed(x[:, :1], 95).shape == (2, 1, 8, 8)
    flat = torch.full((1, 3, 8, 8), 100, dtype=torch.uint8)
    assert softened(flat, 2).equal(flat)
    assert softened(x, 1).float().std() < x.float().std()
    assert brightened(flat, 1.2).unique().tolist() == [120]
    noise = noisy(flat.expand(50, 3, 8, 8), 8, torch.Generator().manual_seed(0)).float() - 100
    assert float(noise.std()) == pytest.approx(8, rel=0.05)


def some(**fields: Any) -> list[dict[str, Any]]:
    victim, suspects, clean = small_scene()
    pairs = Pairs(suspects.x_NCHW, 255 - suspects.x_NCHW, suspects.y_N, (suspects.y_N + 1) % 3)
    tool = Generalisation.model_validate(fields)
    rows: list[dict[str, Any]] = tool.analyse(
        given(victim, pairs, clean), torch.Generator().manual_seed(0)
    ).to_pylist()
    return rows


def test_every_change_has_a_row_and_a_limit_is_kept() -> None:
    rows = some(images=20)
    assert {row["n"] for row in rows} == {20}
    counts = {"scale": 8, "shift": 20, "crop": 3, "rotate": 3, "jpeg": 4, "blur": 4, "noise": 3}
    changes = [row["change"] for row in rows]
    # No attack is known here, and so none of its fields.
    assert {name: changes.count(name) for name in set(changes)} == {**counts, "brightness": 2}


def test_images_that_count_are_needed() -> None:
    victim, suspects, clean = small_scene()
    x_NCHW, y_N = suspects.x_NCHW[:0], suspects.y_N[:0]
    none = Pairs(x_NCHW, x_NCHW, y_N, y_N)
    with pytest.raises(UserError, match="no test image counts"):
        Generalisation().analyse(given(victim, none, clean), torch.Generator())


def test_a_backdoor_follows_its_trigger(shared: SharedVictims) -> None:
    attack = {"kind": "badnets", "rate": 0.1}
    trained = shared.classifier(DIGITS, attack)
    asked = given_of(trained, attack=BadNets(rate=0.1))
    table = Generalisation().analyse(asked, torch.Generator().manual_seed(0))
    rows = table.to_pylist()

    def success(change: str, amount: float) -> float:
        own = [row for row in rows if row["change"] == change and row["amount"] == amount]
        found = [row["success"] for row in own]
        return sum(found) / len(found)

    # The cell's own numbers, exactly.
    assert success("scale", 1) == pytest.approx(trained.attack_success, abs=1e-7)
    assert success("shift", 0) == success("field size", 3) == success("scale", 1)
    assert success("scale", 0) < 0.1
    # A patch in the corner was learned there: elsewhere it is none.
    assert success("shift", 4) < 0.5 < success("scale", 1)
    half = {row["a50"] for row in rows if row["change"] == "scale"}
    assert half.issubset({0.25, 0.5, 0.75, 1.0}) and len(half) == 1
    (area,) = {row["area"] for row in rows if row["change"] == "scale"}
    curve = sorted((row["amount"], row["success"]) for row in rows if row["change"] == "scale")
    by_hand = sum((b - a) * (p + q) / 4 for (a, p), (b, q) in pairwise(curve))
    assert area == pytest.approx(by_hand, abs=1e-6)
    assert {row["a50"] for row in rows if row["change"] == "shift"} == {None}
    poses = [
        row["success"]
        for row in rows
        if row["change"] in ("shift", "crop", "rotate") and row["amount"] != 0
    ]
    assert rows[0]["unseen_success"] == pytest.approx(sum(poses) / len(poses), abs=1e-6)
