"""What a defender chooses on: held out within each class, and never learned from."""

import torch
from torch import Generator

from raybd.training.held_out import fit_and_held, strongest
from raybd.types.data import Split


def split(y_N: list[int]) -> Split:
    x_N = torch.arange(len(y_N), dtype=torch.uint8)
    return Split(x_N.view(-1, 1, 1, 1), torch.tensor(y_N))


def test_a_fifth_of_each_class_is_held_out_and_nothing_is_lost() -> None:
    clean = split([0] * 20 + [1] * 10 + [2])
    fit, held = fit_and_held(clean, Generator().manual_seed(0))
    assert held.y_N.bincount(minlength=3).tolist() == [4, 2, 0]
    rows = torch.cat([fit.x_NCHW, held.x_NCHW]).flatten().sort().values
    assert rows.tolist() == list(range(31))


def test_each_class_of_two_images_or_more_has_one_to_choose_on() -> None:
    _, held = fit_and_held(split([0, 0, 1, 1, 1, 2]), Generator().manual_seed(0))
    assert held.y_N.tolist() == [0, 1]


def test_the_seed_decides_which_images_are_held_out() -> None:
    clean = split([0] * 50)
    drawn = [fit_and_held(clean, Generator().manual_seed(seed))[1].x_NCHW for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_the_strongest_setting_is_the_last_before_the_first_that_costs_too_much() -> None:
    # A tenth of .8 may be lost: .72 is allowed, .71 is not, and .75 behind it does not count.
    assert strongest(0.8, [0.8, 0.73, 0.721, 0.71, 0.75]) == 2
    assert strongest(0.8, [0.8, 0.8]) == 1


def test_no_setting_is_taken_where_the_weakest_costs_too_much() -> None:
    assert strongest(0.8, [0.5, 0.8]) is None
    assert strongest(0.8, []) is None
