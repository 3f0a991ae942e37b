"""TrojanNN: its neurons, its patch and its mask."""

import torch

from raybd.attacks.surrogate.trojannn import TrojanNN, patch_mask, strongest_inputs
from raybd.types.data import Split
from tests.attacks.making import given_to, make, stream, twin


def test_finds_the_inputs_of_the_head_with_the_largest_weights() -> None:
    head = twin().head
    assert isinstance(head, torch.nn.Linear)
    sums = head.weight.abs().sum(0)
    neurons = strongest_inputs(head, 3)
    others = [unit for unit in range(len(sums)) if unit not in neurons]
    assert sums[neurons].min() >= sums[others].max()


def test_its_patch_excites_these_inputs_and_stays_within_its_mask(train: Split) -> None:
    attack = make("trojannn", size=5)
    head = twin().head
    assert isinstance(head, torch.nn.Linear)
    patch_CHW = attack.prepare(given_to(attack, train), stream())["patch_CHW"]
    assert (patch_CHW[:, :-5] == 0).all()
    assert (patch_CHW[:, :, :-5] == 0).all()
    start_CHW = torch.zeros_like(patch_CHW)
    start_CHW[:, -5:, -5:] = torch.randint(0, 256, (3, 5, 5), generator=stream())
    neurons = strongest_inputs(head, 2)
    with torch.no_grad():
        excited, random = twin().embed(torch.stack([patch_CHW, start_CHW]))[:, neurons].sum(1)
    assert excited > random


def test_adds_its_patch() -> None:
    x = torch.tensor([0, 100, 200, 255], dtype=torch.uint8).view(1, 1, 2, 2)
    patch = torch.tensor([0, 7, 100, 9], dtype=torch.uint8).view(1, 2, 2)
    assert TrojanNN().stamp(x, {"patch_CHW": patch}).flatten().tolist() == [0, 107, 255, 255]


def test_has_two_shapes() -> None:
    assert patch_mask("square", 2, 4, 4).tolist() == [
        [0, 0, 0, 0],
        [0, 0, 0, 0],
        [0, 0, 1, 1],
        [0, 0, 1, 1],
    ]
    assert patch_mask("disc", 4, 5, 5)[1:, 1:].tolist() == [
        [0, 1, 1, 0],
        [1, 1, 1, 1],
        [1, 1, 1, 1],
        [0, 1, 1, 0],
    ]
