"""SAU: its formulas by hand, its search step by step, and what it says about itself."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from raybd.repairs.sau import Sau, divergence, log_of_the_rest
from raybd.training.held_out import fit_and_held
from tests.repairs.small import linear_victim, noise, sided, sided_victim
from tests.small_scene import small_scene, stream

EXACT = Sau(precision="fp32")


def test_the_divergence_of_distributions_that_share_nothing_is_ln_2() -> None:
    p_BK = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.9, 0.1]])
    q_BK = torch.tensor([[0.0, 1.0], [0.5, 0.5], [0.1, 0.9]])
    last = math.log(2) + 0.9 * math.log(0.9) + 0.1 * math.log(0.1)
    assert divergence(p_BK, q_BK).tolist() == pytest.approx([math.log(2), 0, last], abs=1e-5)


def test_the_rest_of_a_probability_keeps_its_gradient_where_the_probability_rounds_to_one() -> None:
    logits_BK = torch.tensor([[1.0, 1.0], [200.0, 0.0]], requires_grad=True)
    rest_B = log_of_the_rest(logits_BK, torch.tensor([0, 0]))
    assert rest_B.tolist() == pytest.approx([-math.log(2), -200])
    (slope,) = torch.autograd.grad(rest_B.sum(), logits_BK)
    assert slope[1].tolist() == pytest.approx([-1, 1])


def aim(tuned: Tensor, victim: Tensor, said: tuple[Tensor, Tensor], y_B: Tensor) -> Tensor:
    """The search's loss of each image by the paper's formula, with beta .01 and 1."""
    fooled_t = tuned.argmax(1) != said[0]
    fooled_v = victim.argmax(1) != said[1]
    shared = fooled_t & fooled_v & (tuned.argmax(1) == victim.argmax(1))
    losses = F.cross_entropy(tuned, y_B, reduction="none") * (~fooled_t).float()
    losses = losses + F.cross_entropy(victim, y_B, reduction="none") * (~fooled_v).float()
    p, q = tuned.softmax(1), victim.softmax(1)
    middle = (p + q) / 2
    js = ((p * (p / middle).log()).sum(1) + (q * (q / middle).log()).sum(1)) / 2
    return -0.01 * losses / 2 + js * (~shared).float()


def test_the_search_steps_toward_examples_that_both_networks_share() -> None:
    tuned, victim = linear_victim(seed=1), linear_victim(seed=2)
    split = noise(40)
    steps = 4
    sau = EXACT.model_copy(update={"search_steps": steps, "radius": 0.15, "search_step": 0.07})
    found = sau.search(tuned, victim, split.x_NCHW, split.y_N)

    x_BCHW = split.x_NCHW.double() / 255
    said = (tuned(split.x_NCHW).argmax(1), victim(split.x_NCHW).argmax(1))
    tuned, victim = tuned.double(), victim.double()
    d = torch.full_like(x_BCHW, 0.15)

    def logits(of: torch.nn.Module, d: Tensor) -> Tensor:
        pixels = (x_BCHW + d - 0.5) / 0.25
        head: Tensor = of.head(pixels.flatten(1))  # type: ignore[operator]
        return head

    for _ in range(steps):
        d.requires_grad_()
        loss = aim(logits(tuned, d), logits(victim, d), said, split.y_N).sum()
        (slope,) = torch.autograd.grad(loss, d)
        d = (d.detach() - 0.07 * slope.sign()).clamp(-0.15, 0.15)
    moved = found.x_BCHW / 255 - x_BCHW
    # A slope of nearly zero may have another sign in float.
    assert float(((moved - d).abs() < 1e-4).double().mean()) > 0.99
    assert float(moved.abs().max()) <= 0.15 + 1e-5

    assert torch.equal(found.said_B, logits(victim, d).argmax(1))
    assert torch.equal(found.wrong_B, (found.said_B != split.y_N) & (found.said_B != said[1]))
    same = logits(tuned, d).argmax(1) == found.said_B
    assert torch.equal(found.shared_B, same & (found.said_B != said[0]) & (found.said_B != said[1]))
    assert found.shared_B.any() and not found.shared_B.all()
    assert found.wrong_B.any() and not found.wrong_B.all()


def test_the_first_perturbation_is_the_radius_everywhere() -> None:
    victim, split = linear_victim(), noise(6)
    # All images are shared at once: the search does not move.
    constant = linear_victim()
    found = EXACT.model_copy(update={"search_step": 1e-9}).search(
        victim, constant, split.x_NCHW, split.y_N
    )
    expected = split.x_NCHW.float() + 255 * 0.2
    assert torch.allclose(found.x_BCHW, expected, atol=1e-3)


def test_a_step_learns_the_images_and_unlearns_what_the_victim_says() -> None:
    """SGD with rate 1 moves the head by the gradient of the paper's loss."""
    victim, clean = linear_victim(), noise(60)
    one = Sau(
        epochs=1,
        batch_size=1000,
        optimizer="sgd",
        momentum=0,
        lr=1,
        clean_weight=0.7,
        adversarial_weight=0.3,
        unlearning_weight=2.0,
        precision="fp32",
    )
    defended = one.repair(victim, clean, clean, stream(1))
    learned, _ = fit_and_held(clean, stream(1))
    found = one.search(victim, victim, learned.x_NCHW, learned.y_N)

    plain, worn = victim(learned.x_NCHW), victim(found.x_BCHW)
    rest = 1 - worn.softmax(1)[torch.arange(len(learned)), found.said_B]
    loss = (
        0.7 * F.cross_entropy(plain, learned.y_N)
        + 0.3 * F.cross_entropy(worn, learned.y_N)
        - 2.0 * (rest.log() * found.wrong_B).sum() / len(learned)
    )
    assert victim.head is not None and defended.victim.head is not None
    weight = next(victim.head.parameters())
    (slope,) = torch.autograd.grad(loss, weight)
    moved = next(defended.victim.head.parameters()) - weight
    assert torch.allclose(moved, -slope, atol=1e-4)
    assert defended.facts["unlearned_share"] == float(found.wrong_B.float().mean()) > 0
    assert defended.facts["shared_share"] == float(found.shared_B.float().mean()) > 0


def test_statistics_stay_and_the_steps_are_counted() -> None:
    victim, suspects, clean = small_scene()
    defended = EXACT.model_copy(update={"epochs": 2, "batch_size": 12}).repair(
        victim, suspects, clean, stream(1)
    )
    after = defended.victim.state_dict()
    for name, value in victim.state_dict().items():
        if "running" in name:
            assert torch.equal(after[name], value)
    assert defended.facts["steps"] == 4


def test_where_no_perturbation_changes_anything_it_says_so() -> None:
    tiny = EXACT.model_copy(update={"epochs": 1, "radius": 1e-6})
    defended = tiny.repair(sided_victim(), sided(10, 1), sided(100, 1), stream(1))
    assert defended.facts["unlearned_share"] == 0
    assert "nothing was unlearned" in str(defended.warning)
