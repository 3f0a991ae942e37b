"""The global streams: what libraries draw follows from a seed, and nothing is left behind."""

# The global stream of numpy is what is looked at here.
# ruff: noqa: NPY002

import random

import numpy as np
import pytest
import torch

from raybd.ops.global_streams import seed_from, seeded
from tests.small_scene import stream


def drawn() -> list[float]:
    return [float(torch.rand(1)), float(np.random.rand()), random.random()]


def test_the_seed_decides_what_all_global_streams_give() -> None:
    found = []
    for seed in (1, 1, 2):
        with seeded(seed):
            found.append(drawn())
    assert found[0] == found[1]
    assert all(one != other for one, other in zip(found[0], found[2], strict=True))


def test_the_streams_go_on_as_if_nothing_had_been_drawn_also_after_an_error() -> None:
    with seeded(7):
        expected = drawn()
    with seeded(7):
        with pytest.raises(ValueError, match="of a library"), seeded(8):
            drawn()
            raise ValueError("of a library")
        assert drawn() == expected


def test_seeds_follow_the_stream() -> None:
    assert seed_from(stream(1)) == seed_from(stream(1)) != seed_from(stream(2))
