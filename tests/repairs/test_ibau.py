"""I-BAU: the hypergradient by hand and by the implicit function, and what a round may cost."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raybd.distributed import group
from raybd.repairs.ibau import Ibau, hypergradient, worn
from raybd.training.held_out import fit_and_held
from raybd.training.inference import infer
from raybd.types.data import Split
from tests.groups import in_group
from tests.repairs.small import linear_victim, noise
from tests.small_scene import small_scene, stream


def scalar_case(iterations: int) -> float:
    """d^2 / 2 - theta d inside and (d^2 + theta^2) / 2 outside, at d = 1 and theta = 2."""
    theta = torch.tensor(2.0, requires_grad=True)
    _, (gradient,) = hypergradient(
        lambda d: d**2 / 2 - theta * d,
        lambda d: (d**2 + theta**2) / 2,
        torch.tensor(1.0),
        [theta],
        step=0.1,
        iterations=iterations,
    )
    return float(gradient)


def test_the_hypergradient_of_the_scalar_case() -> None:
    assert scalar_case(5) == pytest.approx(2 + 0.1 * (1 - 0.9**5) / 0.1)
    assert scalar_case(5) == pytest.approx(2.40951)
    assert scalar_case(1) == pytest.approx(2.1)
    assert scalar_case(400) == pytest.approx(3, abs=1e-5)


def test_its_limit_is_the_gradient_through_the_place_where_the_search_ends() -> None:
    """d A d / 2 - d B theta inside ends at d = A^-1 B theta; outside |d|^2 / 2 + |theta|^2 / 2."""
    made = torch.randn(3, 3, generator=stream()).double()
    bend = made @ made.T / 3 + torch.eye(3)
    mix = torch.randn(3, 2, generator=stream(1)).double()
    theta = torch.tensor([0.5, -2.0], dtype=torch.float64, requires_grad=True)
    end = torch.linalg.solve(bend, mix @ theta).detach()
    loss, (gradient,) = hypergradient(
        lambda d: d @ bend @ d / 2 - d @ mix @ theta,
        lambda d: d.square().sum() / 2 + theta.square().sum() / 2,
        end,
        [theta],
        step=0.1,
        iterations=2000,
    )
    through = (torch.linalg.solve(bend, mix @ theta).square().sum() + theta.square().sum()) / 2
    (expected,) = torch.autograd.grad(through, theta)
    assert loss.item() == pytest.approx(through.item())
    assert torch.allclose(gradient, expected, rtol=1e-6)


def test_the_iteration_stops_where_it_no_longer_moves() -> None:
    calls: list[int] = []

    class Counted(torch.autograd.Function):
        """The identity, which counts its second passes back."""

        @staticmethod
        def forward(ctx: object, value: Tensor) -> Tensor:
            return value.clone()

        @staticmethod
        def backward(ctx: object, *slopes: Tensor) -> Tensor:
            calls.append(1)
            return slopes[0]

    theta = torch.tensor(2.0, requires_grad=True)
    for tolerance in (0.0, 0.5):
        calls.clear()
        hypergradient(
            lambda d: Counted.apply(d) ** 2 / 2 - theta * d,
            lambda d: d**2 / 2,
            torch.tensor(1.0),
            [theta],
            0.1,
            50,
            tolerance,
        )
        # Changes are 1, .9, .81, ...: the eighth one, .478, is below .5.
        assert len(calls) == {0.0: 1 + 50, 0.5: 1 + 8}[tolerance]


def _of_a_share() -> tuple[float, Tensor]:
    """The scalar case where each worker holds a part of both sums."""
    theta = torch.tensor([2.0], requires_grad=True)
    part = [0.25, 0.75][group.rank()] if group.world() == 2 else 1.0
    loss, (gradient,) = hypergradient(
        lambda d: part * (d**2 / 2 - theta * d).sum(),
        lambda d: part * ((d**2 + theta**2) / 2).sum(),
        torch.tensor([1.0]),
        [theta],
        step=0.1,
        iterations=5,
    )
    return float(group.sum_over(loss)), gradient


def test_workers_hold_parts_of_the_sums() -> None:
    alone, gradient = _of_a_share()
    for loss, together in in_group(_of_a_share):
        assert loss == pytest.approx(alone) == 2.5
        assert torch.allclose(together, gradient)


def test_a_perturbation_is_in_pixels_from_zero_to_one_and_not_clipped() -> None:
    x_NCHW = torch.tensor([0, 100, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    assert worn(x_NCHW, torch.full((1, 3, 1, 1), 0.2)).flatten().tolist() == [51, 151, 306]


def test_the_perturbation_is_found_on_what_the_network_says() -> None:
    """With one pass over one batch it is `search_lr` times the slope of the cross-entropy."""
    victim, clean = linear_victim(), noise(80)
    still = Ibau(rounds=1, batch_size=1000, lr=1e-12, search_lr=0.7)
    facts = still.repair(victim, clean, clean, stream(1)).facts

    learned, _ = fit_and_held(clean, stream(1))
    x_NCHW = learned.x_NCHW.float()
    d = torch.zeros(1, 3, 4, 4, requires_grad=True)
    said_N = victim(x_NCHW).argmax(1)
    log_p = victim(x_NCHW + 255 * d).log_softmax(1)
    (slope,) = torch.autograd.grad(-log_p[torch.arange(len(said_N)), said_N].mean(), d)
    fooled_N = victim(x_NCHW + 255 * 0.7 * slope).argmax(1) != said_N
    assert 0 < float(fooled_N.float().mean()) < 1
    assert facts["fooled_before"] == pytest.approx(float(fooled_N.float().mean()))
    assert facts["fooled_after"] == facts["fooled_before"], "nothing was learned at this rate"


def test_a_step_descends_the_hypergradient_of_a_batch_in_which_some_images_carry_it() -> None:
    """The first step of Adam is the sign of the gradient, of the size of its rate."""
    victim, clean = linear_victim(), noise(60)
    one = Ibau(rounds=1, batch_size=1000, lr=1e-3, search_lr=0.5, carrying=0.25, iterations=3)
    repaired = one.repair(victim, clean, clean, stream(1)).victim

    rng = stream(1)
    learned, _ = fit_and_held(clean, rng)
    order_N = torch.randperm(len(learned), generator=rng)
    x_NP = victim.preprocess(learned.x_NCHW)[order_N].flatten(1)
    assert isinstance(victim.head, nn.Linear)
    weight, bias = (each.detach().clone().requires_grad_() for each in victim.head.parameters())

    def logits(x_NP: Tensor, d: Tensor) -> Tensor:
        return (x_NP + d / 0.25) @ weight.T + bias  # d is in pixels of 0..1

    def inner(d: Tensor, y_N: Tensor, x_NP: Tensor) -> Tensor:
        return -F.cross_entropy(logits(x_NP, d), y_N) + 1e-3 * d.square().sum()

    d = torch.zeros(1, 48, requires_grad=True)
    said_N = logits(x_NP, d).argmax(1)
    (slope,) = torch.autograd.grad(inner(d, said_N, x_NP), d)
    d = -0.5 * slope
    # The batch of the step is drawn anew; a quarter of its 48 images, the first ones, carry d.
    order_N = torch.randperm(len(learned), generator=rng)
    x_NP = victim.preprocess(learned.x_NCHW)[order_N].flatten(1)
    y_N = learned.y_N[order_N]
    carries_N1 = (torch.arange(48) < 12).float()[:, None]
    _, gradients = hypergradient(
        lambda d: inner(d, y_N, x_NP),
        lambda d: F.cross_entropy(logits(x_NP, carries_N1 * d), y_N),
        d,
        [weight, bias],
        step=0.1,
        iterations=3,
    )
    assert isinstance(repaired.head, nn.Linear)
    moved = repaired.head.weight - weight
    assert torch.allclose(moved, -1e-3 * gradients[0].sign(), atol=1e-5)
    # Neither the clean loss alone nor d on all images has the same signs.
    for share in (0, 48):
        carrying_N1 = (torch.arange(48) < share).float()[:, None]
        loss = F.cross_entropy(logits(x_NP, carrying_N1 * d), y_N)
        (other,) = torch.autograd.grad(loss, weight)
        assert not torch.equal(other.sign(), gradients[0].sign())


def test_rounds_that_cost_too_much_are_not_kept() -> None:
    # Its own labels, which it all knows; a step of this size leaves nothing of its weights.
    victim, clean = linear_victim(), noise(300)
    clean = Split(clean.x_NCHW, infer(victim, clean.x_NCHW).argmax(1))
    wild = Ibau(rounds=2, lr=100.0, search_lr=100.0)
    defended = wild.repair(victim, clean, clean, stream(1))
    assert defended.facts["rounds"] == 0
    assert "every round cost too much" in str(defended.warning)
    assert torch.equal(infer(defended.victim, clean.x_NCHW), infer(victim, clean.x_NCHW))

    still = Ibau(rounds=2, lr=1e-9).repair(victim, clean, clean, stream(1))
    assert still.facts["rounds"] == 2
    # Fewer than fifty held images cannot tell.
    few = clean.select(torch.arange(200))
    assert wild.repair(victim, few, few, stream(1)).facts["rounds"] == 2


def test_one_image_carries_where_a_share_would_be_none() -> None:
    """Of ten images 1 % is none; without the perturbation nothing would depend on it."""
    victim, suspects, clean = small_scene()
    few = clean.select(torch.arange(12))
    one = Ibau(rounds=1, batch_size=9, search_lr=100).repair(victim, suspects, few, stream(1))
    all_of_them = Ibau(rounds=1, batch_size=9, search_lr=100, carrying=1.0).repair(
        victim, suspects, few, stream(1)
    )
    ninth = Ibau(rounds=1, batch_size=9, search_lr=100, carrying=0.12).repair(
        victim, suspects, few, stream(1)
    )
    x_NCHW = suspects.x_NCHW
    assert torch.equal(infer(one.victim, x_NCHW), infer(ninth.victim, x_NCHW))
    assert not torch.equal(infer(one.victim, x_NCHW), infer(all_of_them.victim, x_NCHW))
