"""FT-SAM: its climb, one whole step by the formula, and what its second pass leaves alone."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raybd.repairs.ft_sam import FtSam, climb
from raybd.training.held_out import fit_and_held
from tests.repairs.small import linear_victim, noise
from tests.small_scene import small_scene, stream

ONE_STEP = FtSam(
    epochs=1,
    batch_size=1000,
    lr=0.5,
    momentum=0,
    weight_decay=0,
    schedule="constant",
    precision="fp32",
)


def test_large_weights_climb_further() -> None:
    (offset,) = climb([torch.tensor([3.0, 4.0])], [torch.tensor([1.0, 1.0])], 2.0)
    assert offset.tolist() == pytest.approx([3.6, 6.4])


def test_one_norm_spans_all_weights() -> None:
    weights = [torch.tensor([3.0]), torch.tensor([4.0])]
    offsets = climb(weights, [torch.ones(1), torch.ones(1)], 2.0)
    assert [float(offset) for offset in offsets] == pytest.approx([3.6, 6.4])
    assert climb([torch.zeros(2)], [torch.ones(2)], 2.0)[0].tolist() == [0, 0]


def smoothed(logits_NK: Tensor, y_N: Tensor, share: float) -> Tensor:
    """The cross-entropy with a target of 1 - share, and the share spread over all classes."""
    target_NK = (1 - share) * F.one_hot(y_N, 3) + share / 3
    return -(target_NK * logits_NK.log_softmax(1)).sum(1).mean()


def test_a_step_descends_from_the_weights_by_the_gradient_of_the_highest_point() -> None:
    victim, clean = linear_victim(), noise(60)
    repaired = ONE_STEP.repair(victim, clean, clean, stream(1)).victim
    learned, _ = fit_and_held(clean, stream(1))

    x_NP = victim.preprocess(learned.x_NCHW).flatten(1).double()
    assert isinstance(victim.head, nn.Linear)
    weights = [each.detach().double().requires_grad_() for each in victim.head.parameters()]

    def gradients(at: list[Tensor]) -> tuple[Tensor, ...]:
        loss = smoothed(x_NP @ at[0].T + at[1], learned.y_N, 0.1)
        return torch.autograd.grad(loss, at)

    g_weight, g_bias = gradients(weights)
    norm = ((weights[0] * g_weight).square().sum() + (weights[1] * g_bias).square().sum()).sqrt()
    highest = [
        (w + 2.0 * w**2 * g / norm).detach().requires_grad_()
        for w, g in zip(weights, (g_weight, g_bias), strict=True)
    ]
    expected = [w - 0.5 * g for w, g in zip(weights, gradients(highest), strict=True)]
    assert isinstance(repaired.head, nn.Linear)
    for found, wanted in zip(repaired.head.parameters(), expected, strict=True):
        assert torch.allclose(found, wanted.float(), atol=1e-5)
    plain = weights[0] - 0.5 * g_weight
    assert not torch.allclose(repaired.head.weight, plain.float(), atol=1e-3)


def test_statistics_move_once_in_each_step() -> None:
    victim, suspects, clean = small_scene()
    repaired = ONE_STEP.repair(victim, suspects, clean, stream(1)).victim
    learned, _ = fit_and_held(clean, stream(1))
    with torch.no_grad():
        out_NCHW = victim.encoder.get_submodule("0")(victim.preprocess(learned.x_NCHW))
    moved = 0.9 * victim.state_dict()["encoder.1.running_mean"] + 0.1 * out_NCHW.mean((0, 2, 3))
    assert torch.allclose(repaired.state_dict()["encoder.1.running_mean"], moved, atol=1e-6)
    # The second layer sees what the first one puts out at other weights, if it is asked twice.
    assert int(repaired.state_dict()["encoder.4.num_batches_tracked"]) == 1


def test_the_facts_count_steps_and_the_held_images_are_not_learned() -> None:
    victim, suspects, clean = small_scene()
    fields = {"epochs": 3, "batch_size": 10}
    repair = ONE_STEP.model_copy(update=fields)
    defended = repair.repair(victim, suspects, clean, stream(1))
    assert defended.facts["steps"] == 6  # of 24 images, ten at a time

    _, held = fit_and_held(clean, stream(1))
    marked = copy.deepcopy(clean)
    for image in held.x_NCHW:
        marked.x_NCHW[(clean.x_NCHW == image).flatten(1).all(1)] = 0
    again = repair.repair(victim, suspects, marked, stream(1))
    pairs = zip(
        again.victim.state_dict().values(), defended.victim.state_dict().values(), strict=True
    )
    assert all(torch.equal(a, b) for a, b in pairs)
