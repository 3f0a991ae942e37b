"""asset_features: what its network is taught, where its threshold comes from, what it finds."""

from dataclasses import replace

import pytest
import torch

from raybd.detectors.asset_features import AssetFeatures
from raybd.metrics.detection import detection
from tests.detectors.conftest import Scene
from tests.small_scene import stream


def test_it_finds_the_poison_and_not_the_class(scene: Scene) -> None:
    detector = AssetFeatures()
    pool = scene.pool(detector)
    verdict = detector.score(scene.victim, pool.suspects, scene.dataset.clean, stream())
    flagged_N = verdict.score_N > verdict.threshold_N
    found = detection(verdict.score_N, flagged_N, pool.role_N, pool.suspects.y_N)
    assert found["auroc"] is not None and found["auroc"] > 0.97
    assert found["auroc_within_class"] is not None and found["auroc_within_class"] > 0.95
    assert found["tpr"] is not None and found["tpr"] > 0.8
    assert found["fpr"] is not None and found["fpr"] < 0.1


def test_the_loss_of_trusted_images_stays_at_that_of_flat_outputs(scene: Scene) -> None:
    # With flat outputs over K classes the cross-entropy of any label is ln K.
    detector = AssetFeatures()
    pool = scene.pool(detector)
    verdict = detector.score(scene.victim, pool.suspects, scene.dataset.clean, stream())
    clean_N = verdict.score_N[pool.role_N == 0]
    flat = float(torch.tensor(10.0).log())
    assert float(clean_N.median()) == pytest.approx(flat, abs=0.5)
    # Poison rises far above that.
    assert float(verdict.score_N[pool.role_N == 1].median()) > 2 * flat


def test_few_clean_images_are_flagged_where_there_is_no_poison(scene: Scene) -> None:
    detector = AssetFeatures(alpha=0.05)
    clean = scene.dataset.clean
    half = len(clean) // 2
    suspects = clean.select(torch.arange(half))
    trusted = clean.select(torch.arange(half, len(clean)))
    verdict = detector.score(scene.victim, suspects, trusted, stream())
    assert float((verdict.score_N > verdict.threshold_N).float().mean()) < 0.2


def test_the_stored_embeddings_are_read(scene: Scene) -> None:
    detector = AssetFeatures(epochs=1)
    pool = scene.pool(detector)
    z_ND = torch.zeros(len(pool.suspects), scene.victim.embed(pool.suspects.x_NCHW[:1]).shape[1])
    stored = replace(pool.suspects, z_ND=z_ND)
    verdict = detector.score(scene.victim, stored, scene.dataset.clean, stream())
    # Equal embeddings give each label one score.
    for label in pool.suspects.y_N.unique():
        assert len(verdict.score_N[pool.suspects.y_N == label].unique()) == 1
