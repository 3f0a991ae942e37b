"""STRIP, for classifiers and for encoders: what it finds, and the formulas."""

from typing import Any, get_args

import pytest
import torch

from raybd.detectors.strip import ALL, Strip, Way
from raybd.detectors.strip_encoder import StripEncoder
from raybd.types.models import Victim
from tests.detectors.conftest import Scene
from tests.shared_victims import DIGITS, SharedVictims
from tests.small_scene import small_scene, stream


def test_finds_triggered_test_inputs(scene: Scene) -> None:
    found = scene.found_by(Strip(overlays=10))
    assert found["auroc"] > 0.8
    assert found["fpr"] < 0.1


@pytest.mark.slow
def test_finds_triggers_of_the_training_set_that_one_way_alone_misses(
    scene: Scene, shared: SharedVictims
) -> None:
    def auroc(where: Scene, **fields: Any) -> float:
        return where.found_by(Strip(pool="train", overlays=5, **fields))["auroc"]

    # The average halves a white square, and a clipped sum loses a blended pattern.
    trained = shared.classifier(DIGITS, {"kind": "blended", "rate": 0.1})
    blended = Scene(trained.victim, trained.dataset, trained.poisoned)
    assert auroc(scene) > 0.9
    assert auroc(blended) > 0.9
    assert auroc(scene, superimpose="average") < 0.9
    assert auroc(blended, superimpose="pixels") < 0.6


@pytest.mark.slow
@pytest.mark.data
def test_encoders_betray_a_trigger_that_their_clean_twin_does_not_know(
    twins: tuple[Scene, Scene],
) -> None:
    detector = StripEncoder(overlays=10, fpr=0.05)
    found, control = (scene.found_by(detector)["auroc"] for scene in twins)
    assert found > 0.8
    assert found > control + 0.2


def test_the_test_pool_holds_every_test_image_and_each_counted_one_with_the_trigger(
    scene: Scene,
) -> None:
    pool = scene.pool(Strip())
    test = scene.dataset.test
    counted = int((test.y_N != 0).sum())
    assert len(pool.suspects) == len(test) + counted
    assert int((pool.role_N == 1).sum()) == counted
    assert torch.equal(pool.suspects.x_NCHW[: len(test)], test.x_NCHW)
    # A defender has no test labels: the suspects carry the victim's predictions, which for
    # triggered images is the target.
    assert float((pool.suspects.y_N[pool.role_N == 1] == 0).float().mean()) > 0.9


def entropies(blends: torch.Tensor, victim: Victim) -> torch.Tensor:
    p = victim(blends).softmax(1)
    return -(p * p.log()).sum(1)


def test_the_score_is_the_mean_negative_entropy_of_the_blends() -> None:
    victim, suspects, clean = small_scene()
    x, overlays = suspects.x_NCHW[:3], clean.x_NCHW[:2]
    score = Strip().negative_entropy(victim, x, overlays, "pixels")
    blends = [(x.int() + overlay.int()).clamp(0, 255).to(torch.uint8) for overlay in overlays]
    expected = -torch.stack([entropies(blend, victim) for blend in blends]).mean(0)
    assert torch.allclose(score, expected, atol=1e-5)


def test_normalised_images_are_added_as_the_encoder_sees_them() -> None:
    victim, suspects, clean = small_scene()
    x, overlays = suspects.x_NCHW[:3], clean.x_NCHW[:2]
    score = Strip(strength=0.7).negative_entropy(victim, x, overlays, "normalised")
    assert victim.head is not None
    expected = torch.zeros(3)
    for overlay in overlays:
        both = victim.preprocess(x) + 0.7 * victim.preprocess(overlay[None])
        p = victim.head(victim.encoder(both)).softmax(1)
        expected += (p * p.log()).sum(1) / 2
    assert torch.allclose(score, expected, atol=1e-5)


def test_an_average_is_of_pixels() -> None:
    victim, suspects, clean = small_scene()
    x, overlays = suspects.x_NCHW[:3], clean.x_NCHW[:2]
    score = Strip(strength=0.25).negative_entropy(victim, x, overlays, "average")
    blends = [0.8 * x.float() + 0.2 * overlay for overlay in overlays]
    expected = -torch.stack([entropies(blend, victim) for blend in blends]).mean(0)
    assert torch.allclose(score, expected, atol=1e-5)


def test_the_lighter_keeps_a_white_patch_and_the_darker_a_black_one() -> None:
    victim, _, _ = small_scene()
    gray = torch.full((1, 3, 8, 8), 100.0)
    for way, patch, overlay in (("lighter", 255.0, 120.0), ("darker", 0.0, 80.0)):
        x = gray.clone()
        x[..., -2:, -2:] = patch
        laid = Strip().laid_over(x, torch.full((3, 8, 8), overlay), way, victim)
        assert (laid[..., -2:, -2:] == patch).all()
        assert (laid[..., :4, :4] == overlay).all()
        # A weak overlay lies between: nothing is kept of it where the image is stronger.
        weak = Strip(strength=0.2).laid_over(x, torch.full((3, 8, 8), overlay), way, victim)
        assert torch.equal(weak, x)


def test_of_all_ways_the_smooth_maximum_counts_in_deviations_of_trusted_images() -> None:
    victim, suspects, clean = small_scene()
    alone = {way: Strip(superimpose=way, overlays=5).learn(victim, clean, stream()) for way in ALL}
    # The same draw: five overlays, and the others hold the threshold.
    held = clean.select(torch.randperm(len(clean), generator=stream())[5:])
    expected = []
    for found in alone.values():
        trusted_M = found(held).score_N
        deviation = trusted_M.std(correction=0)
        expected.append((found(suspects).score_N - trusted_M.mean()) / deviation)
    verdict = Strip(overlays=5).learn(victim, clean, stream())(suspects)
    assert torch.allclose(verdict.score_N, torch.stack(expected).exp().sum(0).log(), atol=1e-3)


@pytest.mark.parametrize("way", [*get_args(Way), "all"])
def test_the_threshold_is_exceeded_by_its_share_of_held_out_trusted_images(way: Any) -> None:
    victim, _, clean = small_scene()
    verdict_of = Strip(overlays=5, fpr=0.2, superimpose=way).learn(victim, clean, stream())
    order = torch.randperm(len(clean), generator=stream())
    verdict = verdict_of(clean.select(order[5:]))
    # 25 images are held out.
    assert int((verdict.score_N > verdict.threshold_N).sum()) == 5


def test_for_encoders_the_score_is_the_mean_cosine_of_each_two_blends() -> None:
    victim, suspects, clean = small_scene()
    overlays = clean.x_NCHW[:4]
    with torch.no_grad():
        score = StripEncoder(strength=0.5).mean_cosine(victim, suspects.x_NCHW[:3], overlays)
    for one, x in zip(score, suspects.x_NCHW[:3], strict=True):
        z = victim.embed((x.float() + 0.5 * overlays).clamp(0, 255)).detach()
        pairs = [torch.cosine_similarity(z[i], z[j], 0) for i in range(4) for j in range(i)]
        assert float(one) == pytest.approx(float(sum(pairs)) / 6, abs=1e-5)
