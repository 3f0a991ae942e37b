"""Triggers on images of other sizes than 32 pixels: the same bits again, and no value wraps."""

from dataclasses import replace

import pytest
import torch

from raybd.types.data import Split
from tests.attacks.making import given_to, make, stream, triggered

KINDS = ("bpp", "ctrl", "ftrojan", "poison_ink", "refool", "ssba", "universal_noise")
STRONGEST = {"bpp": 19, "ctrl": 40, "ftrojan": 6, "poison_ink": 32, "ssba": 16}
"""Largest change of a pixel, where the defaults bound it."""


@pytest.mark.parametrize("shape", [(64, 64), (224, 224), (64, 96)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_trigger_is_pure_and_wraps_nowhere(kind: str, shape: tuple[int, int]) -> None:
    x = torch.randint(0, 256, (20, 3, *shape), generator=stream(), dtype=torch.uint8)
    # Smooth images, as photographs are; two are flat.
    x = torch.nn.functional.avg_pool2d(x.float(), 9, 1, 4).to(torch.uint8)
    x[0], x[1] = 0, 255
    attack = make(kind, rate=0.1)
    given = given_to(attack, Split(x, torch.arange(20) % 2))
    if attack.prepared_from:
        # Networks that hide something are the same for images of every size.
        small = given_to(attack, Split(x[..., :32, :32], given.train.y_N))
        given = replace(given, prepared=attack.prepare(small, stream()))
    poisoned = attack.poison(given, stream())
    worn = triggered(poisoned, x[:6])
    assert worn.shape == (6, 3, *shape) and worn.dtype == torch.uint8
    assert torch.equal(triggered(poisoned, x[:6]), worn)
    assert (worn[2:] != x[2:6]).flatten(1).any(1).all()
    # A value that wraps changes by more than any of these triggers does.
    change = (worn.int() - x[:6].int()).abs()
    assert int(change[2:].max()) <= STRONGEST.get(kind, 255)
    if kind != "refool":
        assert int(change.max()) <= 64
