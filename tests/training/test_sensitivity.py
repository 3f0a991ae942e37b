"""How much an embedding changes when its image is moved, and the parts that follow from it."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raybd.networks.small_cnn import SmallCnn
from raybd.training.inference import infer
from raybd.training.models import new_victim
from raybd.training.sensitivity import Sensitive, SensitivitySplit, between_classes
from raybd.types.data import Split
from raybd.types.models import Victim
from tests.small_scene import images, small_scene, stream


def test_the_loss_between_classes_is_the_mean_over_all_pairs_with_a_zero_diagonal() -> None:
    """Means (1, 0), (0, 1), (1, 0): one pair of cosine 1, counted twice among 3 x 3."""
    z_BD = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 1.0], [1.0, -1.0]])
    y_B = torch.tensor([0, 1, 2, 2])
    assert float(between_classes(z_BD, y_B, 3)) == pytest.approx(2 / 9)
    # A class that the batch lacks adds pairs of zero.
    assert float(between_classes(z_BD, y_B, 4)) == pytest.approx(2 / 16)


def test_the_loss_between_classes_is_its_formula() -> None:
    z_BD = torch.randn(30, 5, generator=stream())
    y_B = torch.arange(30) % 4
    mean = [z_BD[y_B == k].mean(0) for k in range(4)]
    total = sum(
        float(F.cosine_similarity(mean[a], mean[b], dim=0))
        for a in range(4)
        for b in range(4)
        if a != b
    )
    assert float(between_classes(z_BD, y_B, 4)) == pytest.approx(total / 16, abs=1e-6)


def still(**fields: float) -> SensitivitySplit:
    return SensitivitySplit.model_validate({"rotation": 0, "shift": 0, **fields})


def test_a_half_turn_reverses_both_sides_and_a_quarter_turn_is_one() -> None:
    x_NCHW = images(2, side=8)
    most_N3 = torch.tensor([[1.0, 0.5, 0.5]]).expand(2, 3)
    assert torch.equal(still(rotation=180).moved(x_NCHW, most_N3), x_NCHW.flip(2, 3))
    quarter = still(rotation=90).moved(x_NCHW, most_N3)
    turned = [x_NCHW.rot90(times, (2, 3)) for times in (1, -1)]
    assert any(torch.equal(quarter, one) for one in turned)


def test_a_shift_moves_by_whole_pixels_and_leaves_black() -> None:
    x_NCHW = images(1, side=8)
    moved = still(shift=0.25).moved(x_NCHW, torch.tensor([[0.5, 1.0, 0.5]]))
    assert torch.equal(moved[..., 2:], x_NCHW[..., :-2])
    assert not moved[..., :2].any()
    down = still(shift=0.25).moved(x_NCHW, torch.tensor([[0.5, 0.5, 0.0]]))
    assert torch.equal(down[..., :-2, :], x_NCHW[..., 2:, :])


def test_an_oblong_image_turns_without_being_stretched() -> None:
    x_NCHW = torch.zeros(1, 3, 9, 17, dtype=torch.uint8)
    x_NCHW[..., 4, 12] = 255  # four pixels to the right of the centre
    moved = still(rotation=90).moved(x_NCHW, torch.tensor([[1.0, 0.5, 0.5]]))
    rows = moved[0, 0].nonzero().tolist()
    assert rows in ([[0, 8]], [[8, 8]])


def test_the_change_is_the_mean_square_over_dimensions_and_draws() -> None:
    victim, split, _ = small_scene()
    some = split.select(torch.arange(10))
    chosen = SensitivitySplit(draws=2)
    z_ND = infer(victim, some.x_NCHW, victim.embed)
    rng = stream(4)
    expected = torch.zeros(10)
    for _ in range(2):
        moved = chosen.moved(some.x_NCHW, torch.rand(10, 3, generator=rng))
        expected += ((infer(victim, moved, victim.embed) - z_ND) ** 2).mean(1) / 2
    assert torch.allclose(chosen.change(victim, some, stream(4)), expected, atol=1e-6)


class _Corner(nn.Module):
    """Embeds an image by its first pixel alone, which every rotation moves."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW[:, :, 0, 0]


def test_the_least_sensitive_are_clean_and_the_most_sensitive_poison() -> None:
    x_NCHW = torch.zeros(40, 3, 8, 8, dtype=torch.uint8)
    x_NCHW[:4, :, 0, 0] = 255
    split = Split(x_NCHW, torch.cat([torch.zeros(4), torch.arange(36) % 3]).long())
    victim = Victim(nn.Sequential(_Corner()), nn.Linear(3, 3), torch.zeros(3), torch.ones(3))
    chosen = SensitivitySplit(epochs=0, apart_epochs=0, poison_share=0.1, draws=5)
    found = chosen.divide(victim, split, 3, stream(), "test")
    assert sorted(found.poison_P.tolist()) == [0, 1, 2, 3]
    assert found.clean_C.tolist() == [4, 5, 6, 7, 8, 9, 10, 11]
    assert (found.change_N > found.threshold).nonzero().flatten().tolist() == [0, 1, 2, 3]
    assert found.facts(split.y_N)["poison part label share"] == 1


def test_a_fresh_network_learns_and_drives_classes_apart() -> None:
    _, split, _ = small_scene()
    victim = new_victim(split, 3, SmallCnn(width=4), stream(2))
    z_ND = infer(victim, split.x_NCHW, victim.embed)
    before = float(between_classes(z_ND, split.y_N, 3))
    chosen = SensitivitySplit(epochs=1, apart_epochs=8, batch_size=30, lr=0.05)
    found = chosen.divide(victim, split, 3, stream(3), "test")
    z_ND = infer(victim, split.x_NCHW, victim.embed)
    assert float(between_classes(z_ND, split.y_N, 3)) < before - 0.1
    assert len(found.clean_C) == 18
    assert len(found.poison_P) == math.ceil(0.05 * 90) - 1
    assert isinstance(found, Sensitive)
