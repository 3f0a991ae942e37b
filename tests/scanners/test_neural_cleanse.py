"""Neural Cleanse: its index and schedule by hand, its gradient, and a backdoor that it finds."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from raybd.networks.small_cnn import SmallCnn
from raybd.scanners._classes import anomaly_index
from raybd.scanners.neural_cleanse import NeuralCleanse
from raybd.scanners.neural_cleanse.search import MaskWeights, TriggerSearch, stamp
from raybd.training.models import new_victim
from raybd.training.runtime import Runtime, running
from raybd.types.data import Split
from raybd.types.errors import Infeasible, UserError
from raybd.types.models import Victim
from raybd.types.verdicts import Suspicion
from tests.scanners.classifiers import CLASSES, SIDE, classifier, some_images
from tests.small_scene import images, stream


def scanned(victim: Victim, clean: Split | None = None, **fields: Any) -> Suspicion:
    quick = {"batch_size": 10, "rounds": 60, "patience": 2, "stop_after": 8}
    return NeuralCleanse.model_validate({**quick, **fields}).scan(
        victim, clean or some_images(), stream(1)
    )


def test_the_golden_norms_have_an_index_of_5_4() -> None:
    # Median 10, absolute deviations (0, 1, 1, 0, 8), their median 1: 8 / 1.4826.
    index_K = anomaly_index(torch.tensor([10.0, 11.0, 9.0, 10.0, 2.0]), 0.01)
    assert index_K.tolist() == pytest.approx([0, -1 / 1.4826, 1 / 1.4826, 0, 5.396], abs=1e-3)


def test_the_median_of_an_even_number_lies_in_the_middle() -> None:
    # Median 2.5, deviations (1.5, .5, .5, 1.5), median 1.
    index_K = anomaly_index(torch.tensor([1.0, 2.0, 3.0, 4.0]), 0.01)
    assert index_K.tolist() == pytest.approx([1.5 / 1.4826, 0.5 / 1.4826, -0.337, -1.012], abs=1e-3)


def test_where_most_norms_are_equal_the_deviation_has_a_lower_bound() -> None:
    norm_K = torch.tensor([64.0, 64.0, 64.0, 64.0, 32.0])
    assert anomaly_index(norm_K, 0.01)[4] == pytest.approx(32 / (1.4826 * 0.64), rel=1e-4)
    assert anomaly_index(torch.full((6,), 9.0), 0.01).tolist() == [0.0] * 6
    assert anomaly_index(torch.zeros(6), 0.01).tolist() == [0.0] * 6


def test_each_class_has_a_weight_that_rises_while_it_is_reached_and_falls_while_it_is_not() -> None:
    weights = MaskWeights(NeuralCleanse(patience=2, weight=1.0, factor=2.0, fall=1.5), 3)
    seen = []
    # Class 0 is reached but for the end, class 1 never, class 2 in every other round.
    for at in range(8):
        weights.end_round(torch.tensor([at < 6, False, at % 2 == 0]))
        seen.append(weights.value_K.tolist())
    assert [one[0] for one in seen] == pytest.approx([0, 1, 1, 2, 2, 4, 4, 4 / 2**1.5])
    assert [one[1] for one in seen] == [0] * 8, "without a weight there is nothing to lower"
    assert [one[2] for one in seen] == [0] * 8, "not two rounds in a row"
    assert weights.settled_K.tolist() == [True, False, False]


def test_without_a_free_start_the_size_costs_something_at_once() -> None:
    weights = MaskWeights(NeuralCleanse(free_start=False, patience=1), 1)
    assert weights.value_K.tolist() == [1e-3]
    weights.end_round(torch.tensor([False]))
    assert weights.value_K.tolist() == pytest.approx([1e-3 / 1.5**1.5])
    weights.end_round(torch.tensor([True]))
    assert weights.value_K.tolist() == pytest.approx([1e-3 / 1.5**0.5])


def test_a_trigger_lies_where_its_mask_is() -> None:
    x = some_images(3).x_NCHW
    mask_KHW = torch.zeros(2, SIDE, SIDE)
    mask_KHW[0, 0, 0], mask_KHW[1, :2] = 0.5, 1.0
    stamped = stamp(mask_KHW, torch.full((2, 3, SIDE, SIDE), 0.2), x)
    assert stamped.shape == (2, 3, 3, SIDE, SIDE)
    assert torch.allclose(stamped[0, ..., 0, 0], 0.5 * x[..., 0, 0] + 25.5)
    assert torch.equal(stamped[0, ..., 1:, :], x[..., 1:, :].float())
    assert torch.allclose(stamped[1, ..., :2, :], torch.tensor(51.0))
    assert torch.equal(stamped[1, ..., 2:, :], x[..., 2:, :].float())


@pytest.mark.parametrize("n", [10, 200])
def test_the_gradient_of_each_class_is_that_of_the_paper_s_loss(n: int) -> None:
    """Cross-entropy to the class over all images, plus weight times L1 norm, for each class alone.

    200 images of six classes are more than one forward pass takes.
    """
    victim, x = classifier(5.0), some_images(n).x_NCHW
    search = TriggerSearch(
        NeuralCleanse(), torch.arange(CLASSES), torch.Size((3, SIDE, SIDE)), stream()
    )
    search.weights.value_K = torch.linspace(0, 0.5, CLASSES).double()
    search.ended_K[4] = True
    expected = []
    for k in range(CLASSES):
        mask, pattern = (part[k].detach().clone().requires_grad_() for part in search.free)
        shown = torch.tanh(mask) / 2 + 0.5
        worn = (1 - shown) * x + shown * 255 * (torch.tanh(pattern) / 2 + 0.5)
        loss = F.cross_entropy(victim(worn), torch.full((n,), k))
        loss = loss + float(search.weights.value_K[k]) * shown.abs().sum()
        expected.append(torch.autograd.grad(loss, [mask, pattern]))

    search.step(victim, x, n)
    for k, wanted in enumerate(expected):
        for part, gradient in zip(search.free, wanted, strict=True):
            assert part.grad is not None
            if k == 4:
                assert not part.grad[k].any(), "its search has ended"
            else:
                assert torch.allclose(part.grad[k], gradient, rtol=1e-3, atol=1e-6)
    assert search.passes == n * 5


def test_it_finds_the_pixel_of_a_backdoor_and_its_target() -> None:
    found = scanned(classifier(60.0))
    clean = scanned(classifier(0.0))
    assert found.facts["smallest_class"] == 2
    assert (found.score_N > found.threshold_N).all()
    assert not (clean.score_N > clean.threshold_N).any()
    assert found.tensors["flagged"].tolist() == [False, False, True, False, False, False]

    mask_HW = found.tensors["mask"][2]
    assert mask_HW[-1, -1] > 0.3
    assert mask_HW[-1, -1] == mask_HW.max()
    assert found.tensors["pattern"][2, :, -1, -1].mean() > 0.9
    assert found.facts["norm[2]"] == pytest.approx(float(mask_HW.sum()), rel=1e-4)
    assert found.facts["smallest_share"] == pytest.approx(float(mask_HW.mean()), rel=1e-4)
    assert float(found.score_N) == pytest.approx(found.facts["index[2]"])
    assert torch.equal(
        found.tensors["norm"], torch.tensor([found.facts[f"norm[{k}]"] for k in range(CLASSES)])
    )
    shown = found.pictures["class 2, flagged"]
    assert shown.shape == (3, 3, SIDE, SIDE)
    assert torch.allclose(shown[0, 0].float(), 255 * mask_HW, atol=0.5)


def test_the_triggers_that_it_hands_out_reach_their_classes() -> None:
    found, x = scanned(classifier(60.0)), some_images().x_NCHW
    worn = stamp(found.tensors["mask"], found.tensors["pattern"], x)
    for k in range(CLASSES):
        reached = (classifier(60.0)(worn[k]).argmax(1) == k).float().mean()
        # Success is counted over a round, and the trigger is that of its end: here, a step later.
        assert reached > 0.85, k


def test_a_class_that_nothing_reaches_has_a_mask_over_the_whole_image() -> None:
    victim = classifier(0.0, barred=1)
    found = scanned(victim, rounds=30)
    assert found.facts["norm[1]"] == SIDE**2
    assert found.facts["index[1]"] < -2
    assert found.warning is None, "the median is a mask that reaches its class"

    with torch.no_grad():
        assert isinstance(victim.head, nn.Linear)
        victim.head.bias[:] = torch.tensor([0.0, *[-1e4] * 5])
    nothing = scanned(victim, rounds=5)
    assert nothing.warning is not None
    assert "no trigger reaches 5 of 6 classes" in nothing.warning


def test_classes_end_one_by_one_and_cost_nothing_then() -> None:
    told: list[Any] = []
    with running(Runtime(report=told.append)):
        found = scanned(classifier(60.0), rounds=400)
    still_open = [facts["open_classes"] for facts in told]
    assert still_open == sorted(still_open, reverse=True)
    assert still_open[-1] == 0 and len(told) < 400
    assert len(set(still_open)) > 2
    # What is open after a round is searched in the next one.
    assert found.facts["passes"] == 20 * sum([CLASSES, *still_open])


def test_it_refuses_what_it_cannot_compare() -> None:
    three = Split(images(12), torch.arange(12) % 3)
    victim = new_victim(three, 3, SmallCnn(width=4), stream()).eval()
    with pytest.raises(Infeasible, match="3 are too few"):
        NeuralCleanse().scan(victim, three, stream())
    victim.head = None
    with pytest.raises(Infeasible, match="needs a classifier"):
        NeuralCleanse().scan(victim, three, stream())
    assert NeuralCleanse().cannot(victim.encoder, 5) is None
    assert NeuralCleanse().cannot(victim.encoder, 4) is not None
    with pytest.raises(UserError, match="no clean images"):
        nothing = some_images().select(torch.tensor([], dtype=torch.int64))
        NeuralCleanse().scan(classifier(0.0), nothing, stream())


def test_a_resumed_search_ends_where_the_whole_one_does() -> None:
    kept: dict[str, bytes] = {}

    def save(name: str, data: bytes) -> None:
        kept[f"{name} {len(kept)}"] = data

    def found() -> Suspicion:
        return scanned(classifier(60.0), rounds=30)

    with running(Runtime(save=save, every_seconds=0)):
        whole = found()
    # Halfway: some classes have a trigger, some have ended.
    halfway = list(kept.values())[len(kept) // 2]
    with running(Runtime(load=lambda name: halfway)):
        resumed = found()
    assert resumed.facts == whole.facts
    assert all(torch.equal(resumed.tensors[name], part) for name, part in whole.tensors.items())
