"""Embedding drift: CKA by its invariances, and layers that one of both lacks."""

import copy

import pytest
import torch
from torch import nn

from raybd.analyses.embedding_drift import EmbeddingDrift, linear_cka
from raybd.types.errors import UserError
from tests.analyses.by_hand import dark_and_patched, unscaled, victim
from tests.analyses.given import given
from tests.small_scene import small_scene, stream


def test_cka_does_not_change_with_rotation_scale_and_shift() -> None:
    points = torch.randn(50, 6, generator=stream())
    rotation, _ = torch.linalg.qr(torch.randn(6, 6, generator=stream(1)))
    assert linear_cka(points, 3 * points @ rotation + 7) == pytest.approx(1)
    other = torch.randn(2000, 3, generator=stream(2))
    assert linear_cka(torch.randn(2000, 3, generator=stream(3)), other) < 0.01


def test_cka_is_as_by_hand() -> None:
    # Centred: (-1, 1) and rows (0, -1), (0, 1) with a first column of no use.
    x, y = torch.tensor([[0.0], [2.0], [1.0]]), torch.tensor([[1.0], [1.0], [4.0]])
    # x: -1, 1, 0; y: -1, -1, 2. Their product is 0, so they have nothing in common.
    assert linear_cka(x, y) == pytest.approx(0, abs=1e-12)
    y = torch.tensor([[1.0], [4.0], [1.0]])
    # y: -1, 2, -1: the product is 3, 9 / (2 x 6).
    assert linear_cka(x, y) == pytest.approx(0.75)


def test_a_victim_that_is_its_twin_has_not_drifted() -> None:
    model, suspects, _ = small_scene()
    pairs = dark_and_patched(20, side=16)
    shown = given(model, pairs, suspects, twin=copy.deepcopy(model))
    table = EmbeddingDrift().analyse(shown, stream())
    assert table["cka"].to_pylist() == pytest.approx([1] * 16)
    assert table["cosine"].to_pylist() == pytest.approx([1] * 16)
    assert table["group"].to_pylist() == ["clean"] * 8 + ["stamped"] * 8


def test_what_the_trigger_moves_drifts_on_stamped_images_alone() -> None:
    pairs = dark_and_patched(20)
    # The twin does not see the last pixel, that of the trigger; the victim sees nothing else there.
    twin = victim(lambda x: x[:, :1, :1], lambda x: 0 * x[:, :1, :1] + 1)
    own = victim(
        lambda x: x[:, :1, :1], lambda x: 1 - 20 * (x[:, -1:, -1:] > 0.99) * x[:, :1, :1] ** 3
    )
    table = EmbeddingDrift(layer="features").analyse(given(own, pairs, twin=twin), stream())
    clean, stamped = table["cka"].to_pylist()
    assert clean == pytest.approx(1, abs=1e-6) and stamped < 0.99
    assert table["cosine"].to_pylist()[1] < table["cosine"].to_pylist()[0] == pytest.approx(1)


def test_layers_of_other_widths_have_cka_and_no_cosine_and_others_are_left_out() -> None:
    def network(width: int, *more: nn.Module) -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, width, 1), *more, nn.AdaptiveAvgPool2d(1), nn.Flatten())

    pairs = dark_and_patched(6)
    own = unscaled(network(4, nn.BatchNorm2d(4)), None)
    twin = unscaled(network(2), None)
    table = EmbeddingDrift().analyse(given(own, pairs, twin=twin), stream())
    assert table["layer"].to_pylist() == ["0", "0"]
    assert table["cosine"].to_pylist() == [None, None]
    assert all(0 <= value <= 1.0001 for value in table["cka"].to_pylist())
    other = unscaled(nn.Sequential(nn.Sequential(nn.Conv2d(3, 2, 1)), nn.Flatten()), None)
    with pytest.raises(UserError, match="no layer in common"):
        EmbeddingDrift().analyse(given(own, pairs, twin=other), stream())


def test_a_constant_layer_has_no_cka() -> None:
    pairs = dark_and_patched(6)
    model = victim(lambda x: 0 * x)
    shown = given(model, pairs, twin=copy.deepcopy(model))
    assert (
        EmbeddingDrift(layer="features").analyse(shown, stream())["cka"].to_pylist() == [None] * 2
    )
