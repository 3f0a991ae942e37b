"""STRIP, for classifiers and for encoders: what it finds, and the formulas."""

import pytest
import torch

from raybd.detectors.strip import Strip
from raybd.detectors.strip_encoder import StripEncoder
from tests.detectors.conftest import Scene
from tests.small_scene import small_scene


def test_finds_triggered_test_inputs(scene: Scene) -> None:
    found = scene.found_by(Strip(overlays=20))
    assert found["auroc"] > 0.8
    assert found["fpr"] < 0.1


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


def test_the_score_is_the_mean_negative_entropy_of_the_blends() -> None:
    victim, suspects, clean = small_scene()
    overlays = clean.x_NCHW[:2]
    score = Strip().negative_entropy(victim, suspects.x_NCHW[:3], overlays)
    expected = torch.zeros(3)
    for overlay in overlays:
        blend = (suspects.x_NCHW[:3].int() + overlay.int()).clamp(0, 255).to(torch.uint8)
        p = victim(blend).softmax(1)
        expected += (p * p.log()).sum(1) / 2
    assert torch.allclose(score, expected, atol=1e-5)


def test_for_encoders_the_score_is_the_mean_cosine_of_each_two_blends() -> None:
    victim, suspects, clean = small_scene()
    overlays = clean.x_NCHW[:4]
    with torch.no_grad():
        score = StripEncoder(strength=0.5).mean_cosine(victim, suspects.x_NCHW[:3], overlays)
    for one, x in zip(score, suspects.x_NCHW[:3], strict=True):
        z = victim.embed((x.float() + 0.5 * overlays).clamp(0, 255)).detach()
        pairs = [torch.cosine_similarity(z[i], z[j], 0) for i in range(4) for j in range(i)]
        assert float(one) == pytest.approx(float(sum(pairs)) / 6, abs=1e-5)
