"""Poison Ink: its edges, its views, its loss, and its networks."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch

from raybd.attacks.data.poison_ink import PoisonInk, ink_losses
from raybd.attacks.data.poison_ink.edges import DRAWS, Views, draw_views, edge_mask, ink_image
from raybd.training.runtime import Runtime, running
from raybd.types.data import Split
from tests.attacks.making import given_to, make, poison, stream, triggered


def _step(height: int) -> torch.Tensor:
    """Return an image with a step of the brightness between its columns 3 and 4."""
    x = torch.full((1, 3, 8, 8), 100, dtype=torch.uint8)
    x[..., 4:] += height
    return x


def test_a_step_of_the_brightness_is_an_edge_of_two_columns() -> None:
    columns = [0, 0, 0, 1, 1, 0, 0, 0]
    assert edge_mask(_step(100), 28)[0, 0].tolist() == [columns] * 8
    assert edge_mask(_step(100).transpose(2, 3), 28)[0, 0].T.tolist() == [columns] * 8
    # A step of 40 has a slope of 40 / sqrt(2) = 28.3.
    assert edge_mask(_step(40), 28).any()
    assert not edge_mask(_step(39), 28).any()


def test_the_brightness_weighs_colours() -> None:
    for channel, weight in enumerate((0.299, 0.587, 0.114)):
        x = torch.zeros((1, 3, 8, 8), dtype=torch.uint8)
        x[:, channel, :, 4:] = 200
        assert edge_mask(x, 200 * weight / 2**0.5 - 0.1).any()
        assert not edge_mask(x, 200 * weight / 2**0.5 + 0.1).any()


def test_ink_lies_on_the_edges_of_a_white_sheet() -> None:
    ink = ink_image(edge_mask(_step(100), 28), torch.tensor([[80.0, 160.0, 80.0]]))
    assert ink[0, :, 0, 3].tolist() == ink[0, :, 7, 4].tolist() == [80, 160, 80]
    assert (ink[..., [0, 1, 2, 5, 6, 7]] == 255).all()


def test_tints_edges_and_nothing_else() -> None:
    x = _step(100)
    tinted = PoisonInk(hiding="direct").stamp(x, {})
    assert torch.equal(tinted[..., [0, 1, 2, 5, 6, 7]], x[..., [0, 1, 2, 5, 6, 7]])
    # 100 + .15 (80 - 100), 100 + .15 (160 - 100); 200 likewise.
    assert tinted[0, :, 0, 3].tolist() == [97, 109, 97]
    assert tinted[0, :, 0, 4].tolist() == [182, 194, 182]
    flat = torch.full((1, 3, 8, 8), 255, dtype=torch.uint8)
    assert torch.equal(PoisonInk(hiding="direct").stamp(flat, {}), flat)
    assert (
        PoisonInk(hiding="direct").prepare(given_to(make("poison_ink"), _split(x)), stream()) == {}
    )


def _split(x_NCHW: torch.Tensor) -> Split:
    return Split(x_NCHW, torch.zeros(len(x_NCHW), dtype=torch.int64))


def test_views_come_in_stages() -> None:
    x = torch.rand((64, 3, 16, 16), generator=stream())
    draw = draw_views(64, stream(1))
    assert torch.allclose(Views(draw, 0)(x), x, atol=1e-5)
    for stage in (1, 2, 3):
        seen = Views(draw, stage)(x)
        assert torch.equal(Views(draw, stage)(x), seen), "the same views again"
        changed = ~torch.isclose(seen, x, atol=1e-4).flatten(1).all(1)
        coins = (draw[:, :stage] < 0.5).any(1)
        assert torch.equal(changed, coins)


def test_a_view_is_turned_cut_and_mirrored() -> None:
    x = torch.arange(16.0).expand(1, 1, 16, 16)
    off, on = 0.9, 0.1
    mirrored = Views(torch.tensor([[off, off, on, 0.5, 0.5, 0.5]]), 3)(x)
    assert torch.allclose(mirrored, x.flip(-1), atol=1e-4)
    # A cut of 14 of 16 pixels at the right border: it begins 2 pixels from the left.
    cut = Views(torch.tensor([[off, on, off, 0.5, 0.5, 1.0]]), 3)(x)
    inner = slice(1, -1)
    assert torch.allclose(cut[0, 0, 8].diff()[inner], torch.tensor(14 / 16), atol=1e-4)
    assert float(cut[0, 0, 8].mean()) == pytest.approx(8.5, abs=0.05)
    # By 15 degrees: along a row, the old column grows by the cosine, and by the sine down.
    turned = Views(torch.tensor([[on, off, off, 1.0, 0.5, 0.5]]), 3)(x)[0, 0, 5:11, 5:11]
    assert turned.diff(dim=1).mean().item() == pytest.approx(0.9659, abs=1e-3)
    assert abs(turned.diff(dim=0).mean().item()) == pytest.approx(0.2588, abs=1e-3)
    assert draw_views(3, stream()).shape == (3, DRAWS)


def test_its_loss_by_hand() -> None:
    change = torch.tensor([[[[51.0, 0.0]]]])
    miss = torch.tensor([[[[25.5, 51.0]]]])
    blank = torch.tensor([[[[0.0, 25.5]]]])
    mask = torch.tensor([[[[1.0, 0.0]]]])
    found = ink_losses(
        change_BCHW=change,
        miss_BCHW=miss,
        blank_miss_BCHW=blank,
        mask_B1HW=mask,
        weights=(1.0, 13.0, 100.0),
    )
    expected = (0.2**2 + 13 * 0.1**2 + 0.2**2 + 100 * 0.1**2) / 2
    assert found.tolist() == pytest.approx([expected])


def test_its_network_changes_an_image_by_little_and_by_its_own_edges(train: Split) -> None:
    poisoned = poison("poison_ink", train)
    x = train.x_NCHW[:8]
    change = triggered(poisoned, x).int() - x.int()
    assert int(change.abs().max()) <= 32
    assert len(change.unique(dim=0)) == 8
    assert all(name.startswith("hide.") for name in poisoned.state)


def test_resumes_to_the_same_network(train: Split) -> None:
    saved: dict[str, bytes] = {}
    attack = make("poison_ink")
    few = given_to(attack, train.select(torch.arange(40)))

    def die(facts: Mapping[str, Any]) -> None:
        if facts["epoch"] == 2:
            raise RuntimeError("killed")

    with (
        running(Runtime(report=die, save=saved.__setitem__, every_seconds=0)),
        pytest.raises(RuntimeError, match="killed"),
    ):
        attack.prepare(few, stream())
    told: list[int] = []
    with running(Runtime(report=lambda facts: told.append(facts["epoch"]), load=saved.get)):
        resumed = attack.prepare(few, stream())
    assert told == [1, 2, 3]
    whole = attack.prepare(few, stream())
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())
