"""Victims that the tests of detectors share, and what a detector finds in them."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from raybd.cells import pools
from raybd.metrics import detection
from raybd.types.data import Dataset, Poisoned, Split
from raybd.types.methods import Detector
from raybd.types.models import Victim
from raybd.types.verdicts import Suspicion
from tests.shared_victims import BADENCODER, DIGITS, SharedVictims, loaded


@dataclass(frozen=True)
class Scene:
    """A victim with its (poisoned) data."""

    victim: Victim
    dataset: Dataset
    poisoned: Poisoned

    def pool(self, detector: Detector) -> pools.Pool:
        """Return what the detector scores."""
        if detector.scored_pool == "train":
            return pools.training_pool(self.dataset, self.poisoned)
        return pools.test_pool(self.victim, self.dataset, self.poisoned)

    def found_by(self, detector: Detector) -> dict[str, float]:
        """Return how well a detector finds the poison: AUROC, TPR, FPR."""
        pool = self.pool(detector)
        rng = torch.Generator().manual_seed(0)
        verdict = detector.score(self.victim, pool.suspects, self.dataset.clean, rng)
        flagged_N = verdict.score_N > verdict.threshold_N
        found = detection.detection(verdict.score_N, flagged_N, pool.role_N)
        return {name: value for name, value in found.items() if value is not None}

    def rows_of_the_threshold(self, detector: Detector, trusted: int) -> tuple[set[int], set[int]]:
        """Return the trusted images that a detector draws for its threshold, and those not learned.

        It draws two halves and learns from the first. An image is not learned from if the scores
        stay the same when it alone is another one. Fails if the threshold is not from such images.
        """
        clean = self.dataset.clean.select(torch.arange(trusted))
        suspects = self.dataset.test.select(torch.arange(20))

        def verdict(changed: list[int]) -> Suspicion:
            x_NCHW = clean.x_NCHW.clone()
            x_NCHW[changed] = 255 - x_NCHW[changed]
            rng = torch.Generator().manual_seed(0)
            return detector.score(self.victim, suspects, Split(x_NCHW, clean.y_N), rng)

        plain = verdict([])
        kept = {row for row in range(trusted) if torch.equal(verdict([row]).score_N, plain.score_N)}
        order = torch.randperm(trusted, generator=torch.Generator().manual_seed(0)).tolist()
        drawn = order[trusted // 2 :]
        others = verdict(drawn)
        assert torch.equal(others.score_N, plain.score_N)
        assert not torch.equal(others.threshold_N, plain.threshold_N)
        return set(drawn), kept


@pytest.fixture(scope="module")
def scene(shared: SharedVictims) -> Scene:
    """A victim of badnets on digits that has learned its trigger."""
    trained = shared.classifier(DIGITS, {"kind": "badnets", "rate": 0.1})
    assert trained.clean_accuracy > 0.9
    assert trained.attack_success is not None and trained.attack_success > 0.9
    return Scene(trained.victim, trained.dataset, trained.poisoned)


@pytest.fixture(scope="module")
def twins(small_cifar10: dict[str, Any], shared: SharedVictims) -> tuple[Scene, Scene]:
    """An encoder with the backdoor of badencoder, and its clean twin; 300 test images."""
    clean = shared.clean_encoder(small_cifar10)
    poisoned, backdoored = shared.infected_encoder(small_cifar10, BADENCODER)
    dataset = loaded(small_cifar10)
    few = replace(dataset, test=dataset.test.select(torch.arange(300)))
    return Scene(backdoored, few, poisoned), Scene(clean, few, poisoned)
