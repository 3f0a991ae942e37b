"""Spectral signatures: what they find on a real poisoned victim, and the formula."""

import numpy as np
import pytest
import torch

from raybd.detectors.spectral import Spectral
from tests.detectors.conftest import Scene


def test_with_trusted_images_it_finds_badnets(scene: Scene) -> None:
    found = scene.found_by(Spectral(reference="trusted"))
    assert found["auroc"] > 0.95
    assert found["tpr"] > 0.8
    assert found["fpr"] < 0.06


def test_as_published_it_flags_its_share_of_every_class(scene: Scene) -> None:
    suspects = scene.poisoned.over(scene.dataset.train)
    detector = Spectral(remove=0.15)
    verdict = detector.score(scene.victim, suspects, scene.dataset.clean, torch.Generator())
    flagged = verdict.score_N > verdict.threshold_N
    for label in range(10):
        assert float(flagged[suspects.y_N == label].float().mean()) == pytest.approx(0.15, abs=0.02)


def test_the_score_is_the_projection_on_the_top_singular_vector() -> None:
    rng = np.random.default_rng(0)
    z = torch.from_numpy(rng.normal(size=(40, 6)))
    verdict = Spectral().against_class(z, torch.zeros(40, dtype=torch.int64))
    centered = z.numpy() - z.numpy().mean(0)
    expected = np.abs(centered @ np.linalg.svd(centered)[2][0])
    assert verdict.score_N.numpy() == pytest.approx(expected, abs=1e-5)
