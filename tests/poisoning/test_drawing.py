"""The draw of the images that are poisoned."""

import pytest
import torch

from raybd.attacks.data.badnets import BadNets
from raybd.attacks.data.sig import Sig
from raybd.poisoning.drawing import draw, draw_cross
from raybd.poisoning.label_maps import AllToOne
from raybd.types.errors import Infeasible
from raybd.types.methods import Attack


@pytest.mark.parametrize(
    ("attack", "why"),
    [
        (Sig(rate=0.2), "only 40"),
        (BadNets(rate=0.001), "not even one image"),
        (BadNets(labels=AllToOne(target=10)), "there are 10 classes"),
    ],
)
def test_what_cannot_be_drawn_is_infeasible(attack: Attack, why: str) -> None:
    with pytest.raises(Infeasible, match=why):
        attack.choose(torch.arange(400) % 10, 10, torch.Generator())


def test_a_target_without_training_images_is_infeasible() -> None:
    y_N = torch.tensor([0, 0, 2, 2, 0, 2, 0, 2, 2, 0])
    with pytest.raises(Infeasible, match="class 1 has no training image"):
        draw(y_N, 3, 0.5, AllToOne(target=1), torch.Generator().manual_seed(0))
    assert len(draw(y_N, 3, 0.5, AllToOne(target=2), torch.Generator().manual_seed(0))) == 5


def test_covers_are_drawn_from_the_rows_that_are_not_poisoned() -> None:
    y_N = torch.arange(100) % 10
    chosen = torch.arange(0, 100, 2)
    all_N = torch.ones(100, dtype=torch.bool)
    rng = torch.Generator().manual_seed(0)
    # As many as are left: each of them, and none of the others.
    assert draw_cross(y_N, chosen, 0.5, all_N, rng).tolist() == list(range(1, 100, 2))
    assert draw_cross(y_N, chosen, 0.0, all_N, rng).tolist() == []
    with pytest.raises(Infeasible, match="only 50"):
        draw_cross(y_N, chosen, 0.51, all_N, rng)
