"""ANP: one step of it against the paper's formula, what is perturbed, and which channels go."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raybd.networks.small_cnn import SmallCnn
from raybd.repairs._masks import MaskedNorms
from raybd.repairs._pruning import affine_norms
from raybd.repairs.anp import Anp
from raybd.training.models import new_victim
from raybd.training.runtime import Runtime, running
from raybd.types.data import Split
from raybd.types.models import Victim
from tests.small_scene import small_scene, stream
from tests.some_images import same_weights

ONE_STEP: dict[str, Any] = {"steps": 1, "batch_size": 500, "lr": 0.5, "precision": "fp32"}
Noise = list[Tensor]


def scene() -> tuple[Victim, Split]:
    """A victim whose normalisations have weights and biases of their own, and 24 images."""
    _, suspects, _ = small_scene()
    victim = new_victim(suspects, 3, SmallCnn(width=4), stream()).eval()
    for norm in norms_of(victim):
        nn.init.uniform_(norm.weight, 0.5, 1.5, generator=stream(1))
        nn.init.uniform_(norm.bias, -0.5, 0.5, generator=stream(2))
    return victim, suspects.select(torch.arange(24))


def norms_of(victim: Victim) -> list[nn.BatchNorm2d]:
    return [module for module in victim.modules() if isinstance(module, nn.BatchNorm2d)]


def masked(victim: Victim, split: Split) -> MaskedNorms:
    return MaskedNorms(victim, affine_norms("anp", victim, split.x_NCHW[:2])).train()


def loss_and_slopes(
    victim: Victim, split: Split, noise: Noise | None
) -> tuple[float, Noise, Noise]:
    """Loss on batch statistics with weights (1 + d) w and biases (1 + e) b, set in place.

    The slopes are those with respect to d (or the mask) and e.
    """
    changed = copy.deepcopy(victim).train()
    with torch.no_grad():
        for at, norm in enumerate(norms_of(changed)):
            if noise is not None:
                norm.weight.mul_(1 + noise[at][0])
                norm.bias.mul_(1 + noise[at][1])
    loss = F.cross_entropy(changed(split.x_NCHW), split.y_N)
    loss.backward()  # type: ignore[no-untyped-call]
    weights = []
    biases = []
    for norm, plain in zip(norms_of(changed), norms_of(victim), strict=True):
        assert norm.weight.grad is not None and norm.bias.grad is not None
        weights.append(norm.weight.grad * plain.weight.detach())
        biases.append(norm.bias.grad * plain.bias.detach())
    return loss.item(), weights, biases


def start_of(victim: Victim, seed: int, eps: float) -> Noise:
    rng = stream(seed)
    return [
        (torch.rand(2, norm.num_features, generator=rng) * 2 - 1) * eps for norm in norms_of(victim)
    ]


@pytest.mark.parametrize("ascents", [1, 3])
def test_the_perturbation_is_a_random_start_and_sign_ascent(ascents: int) -> None:
    victim, split = scene()
    found = Anp(eps=0.4, ascents=ascents).worst_noise(
        masked(victim, split), split.x_NCHW, split.y_N, stream(5)
    )
    expected = start_of(victim, 5, 0.4)
    before, *_ = loss_and_slopes(victim, split, expected)
    for _ in range(ascents):
        _, weights, biases = loss_and_slopes(victim, split, expected)
        slopes = [torch.stack(pair) for pair in zip(weights, biases, strict=True)]
        expected = [
            part + 0.4 / ascents * slope.sign()
            for part, slope in zip(expected, slopes, strict=True)
        ]
    same = [torch.isclose(a, b, atol=1e-5) for a, b in zip(found, expected, strict=True)]
    # A slope of nearly zero may have another sign by rounding.
    assert torch.cat([part.flatten() for part in same]).float().mean() > 0.97
    after, *_ = loss_and_slopes(victim, split, found)
    assert after > before + 0.1


def test_the_perturbation_reaches_twice_as_far_unless_it_is_projected() -> None:
    victim, split = scene()
    net = masked(victim, split)
    given = (split.x_NCHW, split.y_N)
    free = torch.cat([p.flatten() for p in Anp().worst_noise(net, *given, stream(5))])
    assert 0.6 < float(free.abs().max()) <= 0.8
    bound = Anp(project=True).worst_noise(net, *given, stream(5))
    assert float(torch.cat([p.flatten() for p in bound]).abs().max()) == pytest.approx(0.4)


@pytest.mark.parametrize("alpha", [0.0, 0.2, 1.0])
def test_one_step_of_the_masks_is_that_of_the_papers_loss(alpha: float) -> None:
    victim, split = scene()
    anp = Anp(**ONE_STEP, alpha=alpha)
    found = anp.masks(victim, split, stream(3))

    # The order of the batch is drawn before the perturbation.
    rng = stream(3)
    torch.randperm(len(split), generator=rng)
    noise = anp.worst_noise(masked(victim, split), split.x_NCHW, split.y_N, rng)
    _, plain, _ = loss_and_slopes(victim, split, None)
    # The slope in the mask is that in d, since both are added.
    _, perturbed, _ = loss_and_slopes(victim, split, noise)
    for mask_C, one_C, two_C in zip(found.values(), plain, perturbed, strict=True):
        slope_C = alpha * one_C + (1 - alpha) * two_C
        # The first step of Nesterov's SGD goes 1 + momentum times as far.
        expected_C = (1 - 0.5 * 1.9 * slope_C).clamp(0, 1)
        assert torch.allclose(mask_C, expected_C, atol=1e-5)
    assert any((mask_C < 1).any() for mask_C in found.values())


def test_without_a_perturbation_it_is_plain_mask_learning() -> None:
    victim, split = scene()
    one, two = (Anp(**ONE_STEP, eps=0, alpha=a).masks(victim, split, stream()) for a in (0.1, 0.9))
    _, plain, _ = loss_and_slopes(victim, split, None)
    for a_C, b_C, slope_C in zip(one.values(), two.values(), plain, strict=True):
        assert torch.allclose(a_C, b_C, atol=1e-5)
        assert torch.allclose(a_C, (1 - 0.95 * slope_C).clamp(0, 1), atol=1e-5)


def test_masks_stay_within_bounds_and_a_channel_that_nothing_reads_keeps_its_own() -> None:
    victim, split = scene()
    nothing = 2
    with torch.no_grad():
        victim.get_submodule("encoder.3").weight[:, nothing] = 0  # type: ignore[operator]
    found = Anp(steps=20, batch_size=8, lr=5.0, precision="fp32").masks(victim, split, stream())
    whole = torch.cat(list(found.values()))
    assert float(whole.min()) == 0 and float(whole.max()) == 1
    assert float(found["1"][nothing]) == 1
    assert sum(float(mask_C.min()) < 1 for mask_C in found.values()) == len(found)


def test_steps_are_rounded_up_to_whole_passes() -> None:
    victim, split = scene()
    heard: list[dict[str, Any]] = []
    with running(Runtime(report=lambda facts: heard.append(dict(facts)))):
        Anp(steps=7, batch_size=8, precision="fp32").masks(victim, split, stream())
    # Three steps a pass.
    assert [(facts["name"], facts["epoch"]) for facts in heard] == [("anp", n) for n in (1, 2, 3)]


def test_what_falls_to_the_threshold_is_pruned_in_the_untouched_victim() -> None:
    victim, clean = scene()
    repair = Anp(steps=20, batch_size=8, lr=2.0, threshold=0.5, precision="fp32")
    defended = repair.repair(victim, clean, clean, stream())
    before = victim.state_dict()
    after = defended.victim.state_dict()
    pruned = 0
    for name, value in before.items():
        if name in [f"encoder.{at}.weight" for at in (1, 4, 7, 10)]:
            silent = after[name] == 0
            assert torch.equal(after[name][~silent], value[~silent])
            pruned += int(silent.sum())
        else:
            assert torch.equal(after[name], value), name
    assert pruned == defended.facts["pruned_channels"] > 0
    assert defended.facts["threshold"] == 0.5
    least = min(v for name, v in defended.facts.items() if name.startswith("least_mask"))
    assert least <= 0.5


def test_the_threshold_is_chosen_on_held_images_if_none_is_set() -> None:
    victim, clean = scene()
    repair = Anp(steps=20, batch_size=8, lr=2.0, precision="fp32")
    facts = repair.repair(victim, clean, clean, stream()).facts
    kept = facts["clean_part_accuracy_after"] >= 0.9 * facts["clean_part_accuracy_before"]
    assert kept and 0 <= facts["threshold"] <= 0.9


def test_a_resumed_repair_ends_where_the_whole_one_does() -> None:
    victim, clean = scene()
    kept: dict[str, bytes] = {}

    def save(name: str, data: bytes) -> None:
        kept.setdefault(name, data)

    repair = Anp(steps=12, batch_size=8, lr=2.0, threshold=0.7, precision="fp32")
    with running(Runtime(save=save, every_seconds=0)):
        whole = repair.repair(victim, clean, clean, stream())
    assert set(kept) == {"anp"}
    with running(Runtime(load=kept.get)):
        resumed = repair.repair(victim, clean, clean, stream())
    assert same_weights(whole.victim, resumed.victim)
    assert whole.facts == resumed.facts
