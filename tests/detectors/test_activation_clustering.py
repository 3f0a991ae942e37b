"""Activation clustering: what it finds on a real poisoned victim, and the formulas."""

import numpy as np
import pytest
import torch
from sklearn.metrics import silhouette_score

from raybd.detectors.activation_clustering import ActivationClustering, silhouette
from raybd.types.data import Split
from tests.detectors.conftest import Scene
from tests.small_scene import small_scene


def test_finds_badnets_with_trusted_images(scene: Scene) -> None:
    found = scene.found_by(ActivationClustering(reduction="pca", suspect="fewer_clean"))
    assert found["auroc"] > 0.6
    assert found["fpr"] < 0.05


@pytest.mark.parametrize("sizes", [(40, 25), (30, 1), (12, 0)])
def test_the_silhouette_is_that_of_its_definition(sizes: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    part_ND = np.concatenate(
        [rng.normal(shift, 1, (size, 3)) for shift, size in zip((0, 2), sizes, strict=True)]
    )
    cluster_N = np.repeat([0, 1], sizes).astype(np.int32)
    expected = silhouette_score(part_ND, cluster_N) if all(sizes) else 0.0
    assert silhouette(part_ND, cluster_N) == pytest.approx(expected)


def test_keeps_no_direction_in_which_nothing_varies() -> None:
    rng = torch.Generator().manual_seed(0)
    spread_ND = torch.randn((60, 3), generator=rng) @ torch.randn((3, 8), generator=rng)
    suspects = Split(
        torch.zeros((60, 3, 4, 4), dtype=torch.uint8),
        torch.zeros(60, dtype=torch.int64),
        z_ND=spread_ND,
    )
    victim = small_scene()[0]
    few, many = (
        ActivationClustering(components=kept)
        .score(victim, suspects, suspects, torch.Generator())
        .score_N
        for kept in (3, 8)
    )
    assert torch.allclose(few, many)


def test_the_facts_say_which_class_falls_into_two_clusters() -> None:
    z_ND = torch.randn((120, 4), generator=torch.Generator().manual_seed(0))
    y_N = torch.arange(120) % 3
    apart = (y_N == 1) & (torch.arange(120) < 40)
    z_ND[apart] += 20
    suspects = Split(torch.zeros((120, 3, 4, 4), dtype=torch.uint8), y_N, z_ND=z_ND)

    detector = ActivationClustering(reduction="pca")
    verdict = detector.score(small_scene()[0], suspects, suspects, torch.Generator())
    assert set(verdict.facts) == {"index[0]", "index[1]", "index[2]"}
    assert verdict.facts["index[1]"] > 0.8
    assert max(verdict.facts["index[0]"], verdict.facts["index[2]"]) < 0.5
    assert torch.equal(verdict.score_N > verdict.threshold_N, apart)
