"""ABL's isolation as a detector: it shares the training with the defense, which has its tests."""

import math

import pytest
import torch

from raybd.detectors.abl_isolation import AblIsolation
from raybd.detectors.asset.inner_loop import by_content
from raybd.training.models import fresh_copy
from raybd.training.recipe import Recipe
from raybd.training.shortcut import losses, low_mode
from raybd.types.errors import Infeasible
from raybd.types.models import Victim
from tests.small_scene import small_scene, stream

LIGHT = AblIsolation(isolation_steps=12, batch_size=30, precision="fp32")


def test_scores_are_the_losses_of_a_fresh_network_in_the_order_of_the_suspects() -> None:
    victim, suspects, clean = small_scene()
    verdict = LIGHT.score(victim, suspects, clean, stream())
    rng = stream()
    first = fresh_copy(victim, rng)
    canonical = suspects.select(by_content(suspects.x_NCHW))
    recipe = Recipe(batch_size=30, weight_decay=1e-4, precision="fp32")
    LIGHT.isolate(first, canonical, recipe, rng, "again")
    loss_N = losses(first, suspects)
    assert torch.allclose(verdict.score_N, -loss_N.float(), atol=1e-5)
    assert float((losses(victim, suspects) - loss_N).abs().max()) > 0.01


def test_the_low_mode_is_flagged_only_where_it_is_small_near_zero_and_of_one_label() -> None:
    victim, suspects, clean = small_scene()
    verdict = LIGHT.score(victim, suspects, clean, stream())
    assert not (verdict.score_N > verdict.threshold_N).any()
    assert "either no backdoor is learned first" in str(verdict.warning)

    lenient = LIGHT.model_copy(
        update={"smallest_mode": 0.0, "largest_mode": 1.0, "near_zero": 100.0, "label_share": 0.1}
    )
    verdict = lenient.score(victim, suspects, clean, stream())
    if verdict.warning is None:
        bound = low_mode(-verdict.score_N.double()).bound
        assert float(-verdict.threshold_N) == pytest.approx(math.exp(bound), rel=1e-3)


def test_an_assumed_share_is_flagged_whatever_the_losses_are() -> None:
    victim, suspects, clean = small_scene()
    detector = LIGHT.model_copy(update={"flags": "share", "share": 0.1})
    verdict = detector.score(victim, suspects, clean, stream())
    flagged_N = verdict.score_N > verdict.threshold_N
    assert int(flagged_N.sum()) == 9
    assert verdict.score_N[flagged_N].min() > verdict.score_N[~flagged_N].max()


def test_an_encoder_without_a_head_is_refused() -> None:
    victim, suspects, clean = small_scene()
    headless = Victim(victim.encoder, None, victim.mean_C, victim.std_C)
    with pytest.raises(Infeasible, match="encoder"):
        LIGHT.score(headless, suspects, clean, stream())
