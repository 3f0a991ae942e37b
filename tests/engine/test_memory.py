"""Memory: a stage's peak is its own, and work on many images goes in parts."""

import gc
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch

from raybd.attacks.data.blended import Blended
from raybd.cells.stage import random_stream
from raybd.networks.small_cnn import SmallCnn
from raybd.results.provenance import peak_memory_bytes, reset_peak_memory
from raybd.training.models import new_victim
from raybd.types.data import Poisoned, Split
from raybd.types.methods import AttackInput

MIB = 2**20
pytestmark = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists() or torch.cuda.is_available(),
    reason="resident memory is measured on Linux, on a CPU",
)


def resident() -> int:
    """Return the bytes of this process now, which are the peak since now."""
    gc.collect()  # what an earlier test left must not be freed during this one
    reset_peak_memory()
    return peak_memory_bytes()


def many() -> Split:
    """96 MiB of images."""
    x_NCHW = torch.full((32 * 1024, 3, 32, 32), 7, dtype=torch.uint8)
    return Split(x_NCHW, torch.arange(len(x_NCHW)) % 10)


def _peak_of_an_allocation() -> tuple[int, int, int]:
    """Return what is resident before it, its peak, and what is resident after it."""
    before = resident()
    torch.ones(256 * MIB, dtype=torch.uint8)
    peak = peak_memory_bytes()
    return before, peak, resident()


def test_a_peak_is_that_of_the_stage_and_not_of_one_before() -> None:
    # In a process of its own: of a large one, the system may take back cold pages meanwhile.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        before, peak, after = pool.submit(_peak_of_an_allocation).result()
    assert peak > before + 200 * MIB
    assert after < before + 100 * MIB


def _poisoned(split: Split) -> Poisoned:
    return Blended(rate=0.001).poison(AttackInput(split, 10), random_stream("poison", 0))


def test_a_trigger_on_many_images_needs_little_more_than_its_result() -> None:
    split = many()
    poisoned, before = _poisoned(split), resident()
    assert len(poisoned.with_trigger(split.x_NCHW, split.y_N, 10)) == len(split)
    assert peak_memory_bytes() < before + (96 + 64) * MIB, (
        "one copy, where a float one alone has 384 MiB"
    )


def test_poisoning_most_of_a_split_needs_three_copies_of_it_at_most() -> None:
    split = many()
    before = resident()
    Blended(rate=0.9).poison(AttackInput(split, 10), random_stream("poison", 0))
    assert peak_memory_bytes() < before + (3 * 96 + 64) * MIB


def test_the_moments_of_many_images_are_taken_in_parts_and_are_those_of_all() -> None:
    split = many()
    split.x_NCHW[::2, 1] = 201
    before = resident()
    victim = new_victim(split, 10, SmallCnn(width=4), random_stream("victim", 0))
    assert peak_memory_bytes() < before + 64 * MIB
    assert torch.allclose(victim.mean_C, torch.tensor([7, 104, 7]) / 255)
    assert float(victim.std_C[1]) == pytest.approx(97 / 255)
