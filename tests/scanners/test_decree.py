"""DECREE: its parts by hand, and what it finds in an encoder with a backdoor."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from raybd.networks.small_cnn import SmallCnn
from raybd.scanners import decree
from raybd.scanners.decree import Decree
from raybd.training.models import new_victim
from raybd.training.runtime import Runtime, running
from raybd.types.data import Split
from raybd.types.errors import UserError
from raybd.types.models import Victim
from raybd.types.verdicts import Suspicion
from tests.shared_victims import BADENCODER, SharedVictims, loaded
from tests.small_scene import images, stream


def some_images() -> Split:
    return Split(images(30), torch.arange(30) % 3)


def scanned(victim: Victim, clean: Split | None = None, **fields: Any) -> Suspicion:
    quick = {"images": 20, "batch_size": 10, "epochs": 15, "reached": 0.9}
    return Decree.model_validate({**quick, **fields}).scan(
        victim, clean or some_images(), stream(1)
    )


class Constant(nn.Module):
    """The same embedding for every image."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return torch.ones(len(x_BCHW), 4)


class Alternating(nn.Module):
    """Embeddings of neighbours in a batch are at right angles, whatever they show."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return torch.eye(2)[torch.arange(len(x_BCHW)) % 2] + 0 * x_BCHW.mean((1, 2, 3))[:, None]


class Cornered(nn.Module):
    """An encoder with a backdoor: red in a corner of two pixels outshines the rest of the image."""

    def __init__(self, strength: float) -> None:
        super().__init__()
        self.pool, self.strength = nn.AdaptiveAvgPool2d(4), strength

    def forward(self, x_BCHW: Tensor) -> Tensor:
        shown_BD = self.pool(x_BCHW).flatten(1)
        red_B1 = (x_BCHW[:, 0, -2:, -2:] - x_BCHW[:, 2, -2:, -2:]).mean((1, 2))[:, None]
        return torch.cat([shown_BD - 0.5, self.strength * red_B1], 1)


def bare(encoder: nn.Module) -> Victim:
    return Victim(encoder, None, torch.zeros(3), torch.ones(3)).eval()


def test_the_self_cosine_leaves_the_diagonal_out() -> None:
    z = torch.randn(6, 5, generator=stream())
    pairs = [
        float(torch.cosine_similarity(z[i], z[j], 0)) for i in range(6) for j in range(6) if i != j
    ]
    assert float(decree.self_cosine(z)) == pytest.approx(sum(pairs) / 30, abs=1e-6)
    assert float(decree.self_cosine(torch.eye(4))) == pytest.approx(0)
    assert float(decree.self_cosine(torch.ones(4, 3))) == pytest.approx(1)


def test_an_encoder_that_tells_nothing_apart_needs_no_mask() -> None:
    found = scanned(bare(Constant()), epochs=60)
    assert found.facts["pl1"] < 0.01
    assert found.facts["cosine"] == pytest.approx(1)
    assert found.warning is None
    assert (found.score_N > found.threshold_N).all()


def test_where_nothing_collapses_the_score_is_the_least_and_it_says_so() -> None:
    found = scanned(bare(Alternating()), epochs=5)
    assert found.facts["pl1"] == 1
    assert float(found.score_N) == 0
    assert found.facts["steps"] == 10
    assert found.warning is not None and "no trigger" in found.warning


def test_a_corner_that_outshines_the_image_is_found() -> None:
    weak, strong = (
        scanned(bare(Cornered(strength)), reached=0.95, epochs=150, stop_after=100)
        for strength in (0.0, 5.0)
    )
    assert strong.facts["pl1"] < 0.02
    assert weak.facts["pl1"] > 0.2
    assert strong.facts["cosine"] > 0.9
    assert (strong.score_N > strong.threshold_N).all()
    assert not (weak.score_N > weak.threshold_N).any()
    mask = strong.tensors["mask"]
    assert mask[-2:, -2:].mean() > 5 * mask.mean()
    assert mask.mean() == pytest.approx(strong.facts["pl1"])
    assert strong.tensors["pattern"].shape == (3, 16, 16)
    shown = strong.pictures["mask"][0, 0].float()
    assert torch.allclose(shown, 255 * mask, atol=0.5)


def test_the_weight_of_the_mask_follows_the_collapse() -> None:
    weight = decree.MaskWeight(Decree())
    seen = []
    for collapsed in [True] * 12 + [False] * 5 + [True] + [False] * 6:
        weight.step(collapsed)
        seen.append(weight.value)
    assert seen[:5] == [1e-3] * 5
    assert seen[5:11] == pytest.approx([5e-3] * 6)
    assert seen[11:23] == pytest.approx([2.5e-2] * 12), "five steps in a row are not enough"
    assert seen[23] == pytest.approx(5e-3)


def test_the_weight_stays_within_its_bounds() -> None:
    low, high = decree.MaskWeight(Decree()), decree.MaskWeight(Decree())
    for _ in range(200):
        low.step(False)
        high.step(True)
    assert 1e-5 / 5 <= low.value < 1e-5
    assert 1e5 <= high.value < 5e5


def test_a_trigger_lies_where_the_mask_is() -> None:
    mask, x = torch.zeros(16, 16), some_images().x_NCHW[:2]
    mask[:4, :8], mask[8, 8] = 1, 0.5
    trigger = decree.Trigger(mask, torch.full((3, 16, 16), 0.2))
    stamped = trigger.stamp(x)
    assert trigger.share == pytest.approx(32.5 / 256)
    assert torch.allclose(stamped[..., :4, :8], torch.tensor(51.0))
    assert torch.allclose(stamped[..., 8, 8], 0.5 * x[..., 8, 8] + 25.5)
    assert torch.equal(stamped[..., 9:, :], x[..., 9:, :].float())
    pictures = trigger.pictures(x[:1])
    assert pictures["mask"][0, :, 0, 0].tolist() == [255] * 3
    assert torch.equal(pictures["example"][..., 9:, :], x[:1, :, 9:])


def test_the_loss_counts_the_mask_in_every_channel() -> None:
    victim = bare(Alternating())
    search = decree.TriggerSearch(Decree(), torch.Size((3, 16, 16)), stream())
    free = [part.detach().clone().requires_grad_() for part in search.free]
    expected = torch.autograd.grad(1e-3 * 3 * (torch.tanh(free[0]) / 2 + 0.5).sum(), free[0])[0]
    search.step(victim, some_images().x_NCHW[:10], 10, 0.1)
    assert search.free[0].grad is not None and torch.allclose(search.free[0].grad, expected)


def test_the_learning_rate_falls_at_its_milestones_and_progress_is_told() -> None:
    told: list[Any] = []
    with running(Runtime(report=told.append)):
        scanned(bare(Alternating()), epochs=6, milestones=(2, 4))
    assert [facts["lr"] for facts in told] == [0.5, 0.5, 0.1, 0.1, 0.05, 0.05]
    assert [facts["epoch"] for facts in told] == [1, 2, 3, 4, 5, 6]


def test_it_stops_once_nothing_smaller_is_found() -> None:
    ended = scanned(bare(Constant()), epochs=1000, lr=(50.0, 50.0, 50.0), stop_after=2)
    assert ended.facts["steps"] < 100


def test_one_image_cannot_collapse() -> None:
    with pytest.raises(UserError, match="1 clean images"):
        victim = new_victim(some_images(), 3, SmallCnn(width=8), stream())
        scanned(victim, some_images().select(torch.tensor([0])))


@pytest.mark.slow
@pytest.mark.data
def test_an_encoder_with_a_backdoor_needs_a_smaller_mask_than_its_clean_twin(
    small_cifar10: dict[str, Any], shared: SharedVictims
) -> None:
    """One encoder on which it works: PL1 .060 with the backdoor and .142 without.

    No gate on the method: encoders of two other seeds, attack success 1.00, gave .087 to .099
    against .090 and .126.
    """
    twin = shared.clean_encoder(small_cifar10)
    _, backdoored = shared.infected_encoder(small_cifar10, BADENCODER)
    clean = loaded(small_cifar10).clean
    found, control = (Decree().scan(victim, clean, stream()) for victim in (backdoored, twin))
    assert found.warning is control.warning is None
    assert found.facts["cosine"] > 0.98
    assert control.facts["cosine"] > 0.98
    assert found.facts["pl1"] < 0.1
    assert found.facts["pl1"] < 0.8 * control.facts["pl1"]


def test_a_resumed_search_ends_where_the_whole_one_does() -> None:
    kept: dict[str, bytes] = {}

    def save(name: str, data: bytes) -> None:
        kept.setdefault(name, data)  # the first checkpoint only: the one after epoch 1

    def found() -> Suspicion:
        return scanned(bare(Cornered(30.0)), epochs=12, patience=1, stop_after=3)

    with running(Runtime(save=save, every_seconds=0)):
        whole = found()
    with running(Runtime(load=kept.get)):
        resumed = found()
    assert list(kept) == ["decree"]
    assert resumed.facts == whole.facts
    assert all(torch.equal(resumed.tensors[name], part) for name, part in whole.tensors.items())
