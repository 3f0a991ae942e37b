"""SCALE-UP: what it counts, what it compares with, and where its threshold comes from."""

import pytest
import torch
from torch import Tensor, nn

from raybd.detectors.scale_up import ScaleUp
from raybd.types.data import Split
from raybd.types.errors import Infeasible, UserError
from raybd.types.models import Victim
from tests.small_scene import small_scene, stream


class _Brightness(nn.Module):
    """Predicts by the first pixel, in steps that a test chooses."""

    def __init__(self, classes: dict[int, int]) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, x_BCHW: Tensor) -> Tensor:
        first = (x_BCHW[:, 0, 0, 0] * 255).round().int().tolist()
        label = torch.tensor([self.classes[one] for one in first])
        # A softmax of it is .72 for the class, and .14 for each other one.
        return 1.63 * nn.functional.one_hot(label, 3).float()


def _by_hand(classes: dict[int, int]) -> Victim:
    return Victim(_Brightness(classes), nn.Identity(), torch.zeros(3), torch.ones(3)).eval()


def _image(first: int) -> Tensor:
    return torch.full((1, 3, 2, 2), first, dtype=torch.uint8)


def test_counts_the_factors_under_which_the_prediction_is_that_of_the_image() -> None:
    # The base prediction is 2, and (2, 2, 1, 2, 0) under the factors.
    victim = _by_hand({20: 2, 60: 2, 100: 2, 140: 1, 180: 2, 220: 0})
    consistency, label = ScaleUp(soft=False).consistency(victim, _image(20))[0].tolist()
    assert consistency == pytest.approx(0.6)
    assert label == 2


def test_the_image_itself_does_not_count() -> None:
    victim = _by_hand({20: 2, 60: 0, 100: 0, 140: 0, 180: 0, 220: 0})
    assert float(ScaleUp(soft=False).consistency(victim, _image(20))[0, 0]) == 0


def test_products_end_at_white() -> None:
    victim = _by_hand({100: 1, 255: 1})
    assert float(ScaleUp(factors=(3, 11), soft=False).consistency(victim, _image(100))[0, 0]) == 1


def test_a_soft_consistency_is_the_mean_probability_of_the_predicted_class() -> None:
    victim = _by_hand({20: 2, 60: 2, 100: 1})
    found = float(ScaleUp(factors=(3, 5)).consistency(victim, _image(20))[0, 0])
    p = torch.tensor([1.63, 0.0, 0.0]).softmax(0)
    assert found == pytest.approx(float(p[0] + p[1]) / 2, abs=1e-5)


def test_a_class_is_compared_with_its_own_trusted_images_if_there_are_enough() -> None:
    consistency_M = torch.tensor([0.0, 1.0, 0.0, 1.0, 1.0, 0.6])
    class_M = torch.tensor([0, 0, 0, 0, 2, 2])
    own, absent, few, every = ScaleUp(fewest=3).statistics(consistency_M, class_M).tolist()
    assert own == pytest.approx([0.5, 0.5])
    assert every == pytest.approx([0.6, float(consistency_M.std(correction=0))])
    assert few == absent == every


def test_images_that_all_tie_have_the_deviation_of_one_factor() -> None:
    found = ScaleUp().statistics(torch.ones(6), torch.zeros(6, dtype=torch.int64))
    assert found.tolist() == [[1.0, pytest.approx(0.2)]] * 2


def test_the_score_is_in_deviations_of_the_predicted_class() -> None:
    victim, suspects, clean = small_scene()
    detector = ScaleUp(fewest=2)
    found = detector.learn(victim, clean, stream())(suspects).score_N
    learned = clean.x_NCHW[torch.randperm(30, generator=stream())[:15]]
    with torch.no_grad():
        known = detector.consistency(victim, learned)
        consistency, label = detector.consistency(victim, suspects.x_NCHW).T
    usual = detector.statistics(known[:, 0], known[:, 1].long())
    row = usual[label.long().clamp_max(len(usual) - 1)]
    assert torch.allclose(found, (consistency - row[:, 0]) / row[:, 1], atol=1e-4)


def test_without_trusted_statistics_the_score_is_the_consistency() -> None:
    victim = _by_hand({20: 2, 60: 2, 100: 2, 140: 1, 180: 2, 220: 0})
    clean = Split(torch.cat([_image(20), _image(20)]), torch.tensor([2, 2]))
    detector = ScaleUp(by_class=False, soft=False, threshold=0.5)
    verdict = detector.learn(victim, clean, stream())(clean)
    assert verdict.score_N.tolist() == pytest.approx([0.6, 0.6])
    assert float(verdict.threshold_N) == 0.5


def test_refuses_an_encoder_and_too_few_trusted_images() -> None:
    victim, _, clean = small_scene()
    encoder = Victim(victim.encoder, None, victim.mean_C, victim.std_C)
    with pytest.raises(Infeasible, match="classifier"):
        ScaleUp().learn(encoder, clean, stream())
    with pytest.raises(UserError, match="1 clean images"):
        ScaleUp().learn(victim, Split(clean.x_NCHW[:1], clean.y_N[:1]), stream())
