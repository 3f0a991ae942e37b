"""Confusion training: wrong labels, weights and the test of the classes by hand."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import nn

from raybd.detectors.confusion_training import ConfusionTraining, kept_best
from raybd.detectors.confusion_training.class_test import found, ratios
from raybd.detectors.confusion_training.confusing import (
    Round,
    class_weights,
    confuse,
    wrong_labels,
)
from raybd.training.inference import infer
from raybd.types.data import Split
from raybd.types.errors import Infeasible, UserError
from raybd.types.models import Victim
from tests.small_scene import small_scene, stream

LIGHT = ConfusionTraining(
    shares=(1, 0.5), epochs=(1,), steps=(4,), confusion_batch=10, batch_size=30, precision="fp32"
)
ONE_STEP = Round("by hand", 1, 0.1, 20, 0.0, 0.0, 30, 2, exact=True)


def test_wrong_labels_turn_and_are_never_the_prediction() -> None:
    zeros = torch.zeros(1).long()
    assert [int(wrong_labels(zeros, step, 3)) for step in range(4)] == [1, 2, 1, 2]
    every = torch.arange(5)
    for step in range(9):
        assert (wrong_labels(every, step, 5) != every).all()


def test_rarer_classes_weigh_more_by_the_root_of_their_share() -> None:
    weight_K = class_weights(torch.tensor([0, 0, 0, 1]), 3)
    expected = [1 / math.sqrt(share + 0.001) for share in (0.75, 0.25, 0.0)]
    assert weight_K.tolist() == pytest.approx(expected)


def test_a_step_is_one_of_sgd_on_wrong_labels_and_on_those_of_the_suspects() -> None:
    """By hand: one step on all images at once, whose order plays no part."""
    victim, suspects, clean = small_scene()
    few = suspects.select(torch.arange(30))
    confused = confuse(copy.deepcopy(victim), few, clean, ONE_STEP, stream())

    by_hand = copy.deepcopy(victim).train()
    wrong = (infer(victim, clean.x_NCHW).argmax(1) + 1) % 3
    out = by_hand(torch.cat([clean.x_NCHW, few.x_NCHW]))
    weight_K = (few.y_N.bincount(minlength=3) / 30 + 0.001).rsqrt()
    known = F.cross_entropy(out[30:], few.y_N, weight_K)
    loss = (19 * F.cross_entropy(out[:30], wrong) + known) / 20
    loss.backward()
    for name, part in by_hand.named_parameters():
        assert part.grad is not None
        stepped = part.data - 0.1 * part.grad
        assert torch.allclose(confused.get_parameter(name), stepped, atol=1e-5), name


def test_suspects_are_learned_in_every_second_step_alone() -> None:
    victim, suspects, clean = small_scene()
    other = Split(255 - suspects.x_NCHW, (suspects.y_N + 1) % 3)
    turn = Round("two", 2, 0.1, 20, 0.0, 0.0, 30, 2, exact=True)
    never = Round("never", 2, 0.1, 20, 0.0, 0.0, 30, 3, exact=True)

    def weights(of: Split, by: Round) -> torch.Tensor:
        confused = confuse(copy.deepcopy(victim), of, clean, by, stream())
        return torch.cat([part.flatten() for part in confused.parameters()])

    # Step 0 has suspects in both; step 1 in neither: every 2 and every 3 are the same here.
    assert torch.equal(weights(suspects, turn), weights(suspects, never))
    assert not torch.allclose(weights(suspects, turn), weights(other, turn))


class _Says(nn.Module):
    """Logits of the first two pixels."""

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        return x_BCHW[:, 0, 0, :2] * 10


def test_the_next_round_learns_what_is_kept_best_and_some_of_each_class() -> None:
    x_NCHW = torch.zeros((100, 3, 2, 2), dtype=torch.uint8)
    # Images of class 0 are known the better, the later they come; those of class 1 hardly at all.
    x_NCHW[:50, :, 0, 0] = torch.arange(50, dtype=torch.uint8)[:, None] + 100
    y_N = torch.arange(100) // 50
    victim = Victim(_Says(), nn.Identity(), torch.zeros(3), torch.ones(3))
    rows = kept_best(victim, Split(x_NCHW, y_N), 0.1)
    assert rows.tolist() == [*range(40, 50), 50]


def test_two_gaussians_are_told_from_one() -> None:
    rng = stream()
    one_ND = torch.randn((400, 5), generator=rng)
    apart_ND = torch.cat([one_ND[:40] + 20, one_ND[40:200], one_ND[200:]])
    y_N = torch.arange(400) // 200
    kept_N = torch.zeros(400, dtype=torch.bool)
    kept_N[:40] = True
    kept_N[200:240] = True
    ratio_K = ratios(apart_ND, y_N, kept_N, 3)
    assert ratio_K[0] > 2
    assert 1 <= ratio_K[1] < 1.1
    # Nothing to compare in a class without images.
    assert ratio_K[2] == 1
    assert found(ratio_K).tolist() == [True, False, False]


def test_the_ratio_of_one_dimension_is_as_by_hand() -> None:
    """Points at -1 and 1, twice each: variances 1 of all, 0 within; each enlarged by .001."""
    z_ND = torch.tensor([[-1.0, 0], [-1, 0], [1, 0], [1, 0]])
    kept_N = torch.tensor([True, True, False, False])
    ratio_K = ratios(z_ND, torch.zeros(4).long(), kept_N, 1)
    # Per point, -.5 (log variance + square / variance); the second dimension adds the same to both.
    two = -0.5 * math.log(0.001)
    one = -0.5 * (math.log(1.001) + 1 / 1.001)
    assert float(ratio_K[0]) == pytest.approx(math.exp(two - one), rel=1e-4)


def test_a_class_is_found_above_two_or_if_it_is_the_largest_above_one_and_a_half() -> None:
    assert found(torch.tensor([1.0, 1.6, 1.55])).tolist() == [False, True, False]
    assert found(torch.tensor([2.1, 2.5, 1.9])).tolist() == [True, True, False]
    assert not found(torch.tensor([1.0, 1.4])).any()


def test_kept_labels_of_found_classes_are_flagged_and_no_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    victim, suspects, clean = small_scene()
    verdict = LIGHT.score(victim, suspects, clean, stream())
    assert set(verdict.facts) == {"index[0]", "index[1]", "index[2]", "kept labels"}
    monkeypatch.setattr("raybd.detectors.confusion_training.class_test.RATIO", 0.0)
    verdict = LIGHT.score(victim, suspects, clean, stream())
    flagged_N = verdict.score_N > verdict.threshold_N
    assert int(flagged_N.sum()) == int(verdict.facts["kept labels"])
    monkeypatch.setattr("raybd.detectors.confusion_training.class_test.RATIO", 1e9)
    monkeypatch.setattr("raybd.detectors.confusion_training.class_test.LARGEST_RATIO", 1e9)
    verdict = LIGHT.score(victim, suspects, clean, stream())
    assert not (verdict.score_N > verdict.threshold_N).any()


def test_a_threshold_of_trusted_images_is_one_for_all() -> None:
    victim, suspects, clean = small_scene()
    trusted = LIGHT.model_copy(update={"flags": "trusted", "alpha": 0.2})
    verdict = trusted.score(victim, suspects, clean, stream())
    assert len(verdict.threshold_N.unique()) == 1
    assert 0 < float(verdict.threshold_N[0]) < 1


@pytest.mark.parametrize(
    "fields",
    [{"shares": (0.5, 0.1)}, {"shares": (1, 0)}, {"weight": (0.5,)}, {"steps": (0,)}],
)
def test_impossible_rounds_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ConfusionTraining.model_validate(fields)


def test_an_encoder_and_too_few_trusted_images_are_refused() -> None:
    victim, suspects, clean = small_scene()
    headless = Victim(victim.encoder, None, victim.mean_C, victim.std_C)
    with pytest.raises(Infeasible, match="encoder"):
        LIGHT.score(headless, suspects, clean, stream())
    with pytest.raises(UserError, match="9 clean images"):
        LIGHT.score(victim, suspects, clean.select(torch.arange(9)), stream())
