"""Runs libraries that draw random numbers from the global streams, and leaves those as they were.

Libraries beside torch often take no generator. Their numbers then follow from a seed all the same.
"""

# The global stream of numpy is what is put back here.
# ruff: noqa: NPY002

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Generator


def seed_from(rng: Generator) -> int:
    """Return a seed, for what takes no generator."""
    return int(torch.randint(2**31, (1,), generator=rng))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global streams of torch (on the CPU), numpy and Python, and put them back after."""
    of_numpy = np.random.get_state()
    of_python = random.getstate()
    try:
        # `devices=[]`: no GPU's stream is touched.
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed, which seeds the GPUs, too.
            torch.default_generator.manual_seed(seed)
            np.random.seed(seed)
            random.seed(seed)
            yield
    finally:
        np.random.set_state(of_numpy)
        random.setstate(of_python)
