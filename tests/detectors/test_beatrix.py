"""Beatrix: what it finds in classifiers and encoders, its formulas, and the map that it reads."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from raybd.detectors.beatrix import Beatrix, features_and
from raybd.detectors.beatrix.statistics import gram
from raybd.networks.small_cnn import SmallCnn
from raybd.networks.small_resnet import SmallResnet
from raybd.training.models import new_victim
from raybd.types.errors import UserError
from raybd.types.models import Victim
from tests.detectors.conftest import Scene
from tests.small_scene import small_scene


def test_finds_triggered_test_inputs(scene: Scene) -> None:
    found = scene.found_by(Beatrix())
    assert found["auroc"] > 0.9
    assert found["fpr"] < 0.2


@pytest.mark.slow
@pytest.mark.data
def test_encoders_betray_a_trigger_that_their_clean_twin_does_not_know(
    twins: tuple[Scene, Scene],
) -> None:
    found, control = (scene.found_by(Beatrix())["auroc"] for scene in twins)
    assert found > 0.8
    assert found > control + 0.2


def test_an_entry_of_a_gram_matrix_is_the_root_of_a_sum_of_powers_with_its_sign() -> None:
    f = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    for order in (1, 2, 3, 8):
        found = gram(f, order)[1]
        expected = [
            float((f[1, i].double() ** order * f[1, j].double() ** order).sum())
            for i in range(3)
            for j in range(i, 3)
        ]
        assert found.tolist() == pytest.approx(
            [np.sign(v) * abs(v) ** (1 / order) for v in expected], rel=1e-5
        )
    assert torch.isfinite(gram(1000 * f, 8)).all()


def _deviation(f: Tensor, same: Tensor, detector: Beatrix) -> float:
    """The formula of the paper for one image, C x T, against clean images of its group."""
    total, entries = 0.0, f.shape[0] * (f.shape[0] + 1) / 2
    for order in range(1, detector.orders + 1):
        known = gram(same, order).numpy()
        own = gram(f[None], order)[0].numpy()
        median = np.sort(known, 0)[(len(known) - 1) // 2]
        spread = np.sort(np.abs(known - median), 0)[(len(known) - 1) // 2]
        low, high = median - detector.reach * spread, median + detector.reach * spread
        total += (
            np.maximum(low - own, 0) / np.abs(low) + np.maximum(own - high, 0) / np.abs(high)
        ).sum()
    return total / entries / detector.orders


def test_sums_what_lies_outside_of_the_range_of_the_group() -> None:
    rng = torch.Generator().manual_seed(0)
    clean, suspects = (
        torch.rand((20, 4, 6), generator=rng) + 0.5,
        3 * torch.rand((5, 4, 6), generator=rng),
    )
    group = torch.arange(20) % 2
    detector = Beatrix(reach=1.5, floor=1e-9, orders=4)
    usual = detector.statistics(clean, group)
    given = torch.tensor([0, 1, 0, 1, 0])
    found = usual.deviation(suspects, given)
    for row, which in enumerate(given.tolist()):
        assert float(found[row]) == pytest.approx(
            _deviation(suspects[row], clean[group == which], detector), rel=1e-3
        )
    larger = detector.statistics(1e6 * clean, group).deviation(1e6 * suspects, given)
    assert torch.allclose(larger, found, rtol=1e-3), "the unit of the activations plays no part"


def test_holds_small_and_unknown_groups_against_all_images() -> None:
    rng = torch.Generator().manual_seed(0)
    clean, suspects = (
        torch.rand((20, 4, 6), generator=rng),
        3 * torch.rand((3, 4, 6), generator=rng),
    )
    group = torch.tensor([0] * 17 + [2] * 3)
    usual = Beatrix(fewest=5).statistics(clean, group)
    one, small, unknown = (
        usual.deviation(suspects, torch.full((3,), which)) for which in (0, 2, 7)
    )
    assert torch.equal(small, unknown)
    assert not torch.equal(small, one)


@pytest.mark.parametrize(
    ("network", "last"), [(SmallCnn(width=8), None), (SmallResnet(width=4), "6")]
)
def test_finds_the_last_map_and_takes_another_by_name(network: Any, last: str | None) -> None:
    victim = new_victim(small_scene()[1], 3, network, torch.Generator().manual_seed(0)).eval()
    x = small_scene()[1].x_NCHW[:2]
    name = Beatrix().layer_of(victim, x)
    assert last in (None, name)
    with torch.no_grad():
        f, z = features_and(victim, name, victim.embed, x)
    assert f.ndim == 3 and f.shape[2] > 1
    assert torch.equal(z, victim.embed(x))
    assert not any(module._forward_hooks for module in victim.modules())
    with pytest.raises(UserError, match="no module 'nowhere'"):
        Beatrix(layer="nowhere").score(victim, *small_scene()[1:], torch.Generator())


def test_takes_tokens_for_positions() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches, self.norm = nn.Conv2d(3, 5, 4, 4), nn.LayerNorm(5)

        def forward(self, x_BCHW: Tensor) -> Tensor:
            tokens_BTD = self.norm(self.patches(x_BCHW).flatten(2).mT)
            z_BD: Tensor = tokens_BTD.mean(1)
            return z_BD

    victim = Victim(Tokens(), None, torch.zeros(3), torch.ones(3)).eval()
    _, suspects, clean = small_scene()
    assert Beatrix().layer_of(victim, clean.x_NCHW[:2]) == "norm"
    with torch.no_grad():
        assert features_and(victim, "norm", victim.embed, clean.x_NCHW[:2])[0].shape == (2, 5, 16)
    assert torch.isfinite(
        Beatrix().score(victim, suspects, clean, torch.Generator().manual_seed(0)).score_N
    ).all()
