"""What analyses are given in tests: by hand, or of a trained victim."""

from dataclasses import replace
from typing import Any

import torch

from raybd.types.data import Split
from raybd.types.methods import AnalysisInput, Pairs
from raybd.types.models import Victim
from tests.shared_victims import Trained
from tests.small_scene import small_scene


def given(
    victim: Victim,
    pairs: Pairs,
    clean: Split | None = None,
    twin: Victim | None = None,
    **more: Any,
) -> AnalysisInput:
    """Return the input of an analysis that needs little more than pairs of images.

    The test images are those of the pairs; the training set is clean, and the trigger inverts.
    """
    plain = Split(pairs.x_MCHW, pairs.y_M)
    clean = plain if clean is None else clean
    usual = AnalysisInput(
        victim=victim,
        clean=clean,
        pairs=pairs,
        test=plain,
        train=clean,
        role_N=torch.zeros(len(clean), dtype=torch.int8),
        num_classes=1 + int(torch.cat([pairs.y_M, pairs.wanted_M, clean.y_N]).max()),
        trigger=lambda x_NCHW, wanted_N: 255 - x_NCHW,
        twin=twin,
    )
    return replace(usual, **more)


def some_pairs() -> tuple[Victim, Pairs]:
    """A small victim, and images with a trigger that inverts them."""
    victim, suspects, _ = small_scene()
    wanted_N = (suspects.y_N + 1) % 3
    return victim, Pairs(suspects.x_NCHW, 255 - suspects.x_NCHW, suspects.y_N, wanted_N)


def pairs_of(trained: Trained) -> Pairs:
    """Return the test images that count, without and with the trigger."""
    test, labels = trained.dataset.test, trained.poisoned.labels
    counted = test.select(trained.poisoned.counted(test))
    wanted_M = labels.wanted(counted.y_N, trained.dataset.num_classes)
    worn_MCHW = trained.poisoned.trigger(counted.x_NCHW, wanted_M)
    return Pairs(counted.x_NCHW, worn_MCHW, counted.y_N, wanted_M)


def given_of(
    trained: Trained, victim: Victim | None = None, twin: Victim | None = None, **more: Any
) -> AnalysisInput:
    """Return what the stage would give about a trained victim, or another one in its place."""
    dataset, poisoned = trained.dataset, trained.poisoned
    usual = AnalysisInput(
        victim=trained.victim if victim is None else victim,
        clean=dataset.clean,
        pairs=pairs_of(trained),
        test=dataset.test,
        train=poisoned.over(dataset.train),
        role_N=poisoned.role_N(len(dataset.train)),
        num_classes=dataset.num_classes,
        trigger=poisoned.trigger,
        twin=twin,
    )
    return replace(usual, **more)


SMALL: dict[str, dict[str, object]] = {
    "feature_vis": {"steps": 5},
    "hessian": {"images": 10, "top": 2, "probes": 2, "lanczos": 5, "points": 9},
    "landscape": {"points": 3, "images": 20},
    "twin_path": {"points": 3, "images": 20},
}
"""Fields of tools that compute much, for contracts."""
