"""The draw of the images that are poisoned."""

import pytest
import torch

from raybd.attacks.data.badnets import BadNets
from raybd.attacks.data.sig import Sig
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
