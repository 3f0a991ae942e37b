"""FreeEagle: its metric by hand, its search against the formula, and a backdoor that it finds."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raybd.networks.small_cnn import SmallCnn
from raybd.networks.vit_tiny import VitTiny
from raybd.scanners.free_eagle import FreeEagle, anomaly, leanings
from raybd.training.layers import stages
from raybd.training.models import new_victim
from raybd.types.data import Split
from raybd.types.errors import Infeasible, UserError
from raybd.types.models import Network, Victim
from raybd.types.verdicts import Suspicion
from tests.small_scene import images, stream

CLASSES = 6


def untrained(network: Network | None = None) -> Victim:
    six = Split(images(12), torch.arange(12) % CLASSES)
    return new_victim(six, CLASSES, network or SmallCnn(width=4), stream()).eval()


def some_images() -> Split:
    return Split(images(4), torch.arange(4))


def test_the_golden_leanings_have_an_index_of_3_5() -> None:
    # The quartiles are the values at the places 1 and 3 of 5.
    index_K = anomaly(torch.tensor([0.0, 10.0, 1.0, 3.0, 2.0]), 0.01)
    assert index_K.tolist() == [-1.5, 3.5, -1.0, 0.0, -0.5]


def test_the_quartiles_have_a_least_distance() -> None:
    index_K = anomaly(torch.tensor([2.0, 2.0, 2.0, 2.0, 3.0]), 0.01)
    assert index_K[4] == pytest.approx(1 / 0.02)
    assert anomaly(torch.zeros(6), 0.01).tolist() == [0.0] * 6


def test_a_leaning_is_a_probability_or_a_logit_and_zero_to_its_own_class() -> None:
    logits_KK = torch.randn((3, 3), generator=stream())
    for metric, expected_KK in (
        ("softmax", logits_KK.exp() / logits_KK.exp().sum(1, keepdim=True)),
        ("logits", logits_KK),
    ):
        found_KK = leanings(logits_KK, metric)  # type: ignore[arg-type]
        for row in range(3):
            for column in range(3):
                wanted = 0 if row == column else expected_KK[row, column]
                assert found_KK[row, column] == pytest.approx(float(wanted), abs=1e-6)
    assert logits_KK.diag().all(), "the logits are left alone"


@pytest.mark.parametrize("positive", [True, False])
def test_each_class_is_sought_by_adam_alone(positive: bool) -> None:
    rest = nn.Linear(5, 3)
    start_KD = torch.rand((3, 5), generator=stream())
    scanner = FreeEagle(steps=30, lr=0.1, weight_decay=0.05)
    expected = []
    for k in range(3):
        one = start_KD[k : k + 1].clone().requires_grad_()
        adam = torch.optim.Adam([one], lr=0.1, weight_decay=0.05)
        for _ in range(30):
            adam.zero_grad()
            F.cross_entropy(rest(one), torch.tensor([k])).backward()
            adam.step()
            if positive:
                one.data.clamp_(min=0)
        expected.append(rest(one).detach())
    found_KK = scanner.foreign(rest, start_KD, positive)
    assert torch.allclose(found_KK, torch.cat(expected), atol=1e-4)


def backdoored(strength: float, target: int = 2) -> Victim:
    """The last layer's channels are the classes; the backdoor's channel asks for the target."""
    body = nn.Sequential(
        nn.AdaptiveAvgPool2d(4),
        nn.Conv2d(3, CLASSES + 2, 1),
        nn.ReLU(),
        nn.AdaptiveMaxPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * (CLASSES + 2), CLASSES + 2, bias=False),
    )
    head = nn.Linear(CLASSES + 2, CLASSES, bias=False)
    with torch.no_grad():
        last = body[5]
        assert isinstance(last, nn.Linear)
        # Each channel is the mean of its positions.
        last.weight[:] = torch.eye(CLASSES + 2).repeat_interleave(4, 1) / 4
        noise_KD = 0.3 * torch.randn((CLASSES, CLASSES + 2), generator=stream())
        head.weight[:] = noise_KD + 2 * torch.eye(CLASSES + 2)[:CLASSES]
        # Whatever speaks for another class speaks for the target, too.
        head.weight[target] += strength
    return Victim(body, head, torch.zeros(3), torch.ones(3)).eval()


def scanned(victim: Victim, **fields: Any) -> Suspicion:
    quick = {"steps": 150, "lr": 0.05, "layer": "2"}
    return FreeEagle.model_validate({**quick, **fields}).scan(victim, some_images(), stream(1))


@pytest.mark.parametrize("metric", ["softmax", "logits"])
def test_it_finds_the_class_that_all_others_lean_to(metric: str) -> None:
    found, clean = (scanned(backdoored(strength), metric=metric) for strength in (1.0, 0.0))
    assert found.facts["suspected_class"] == 2
    assert (found.score_N > found.threshold_N).all()
    assert float(found.score_N) == pytest.approx(found.facts["index[2]"])
    assert float(found.score_N) > float(clean.score_N) + 1
    assert found.tensors["flagged"].tolist() == [k == 2 for k in range(CLASSES)]
    similarity_KK = found.tensors["similarity"]
    assert torch.allclose(similarity_KK.mean(0), found.tensors["leaning"])
    assert similarity_KK.diag().tolist() == [0.0] * CLASSES
    assert found.warning is None


class _Lowest(nn.Module):
    """Remembers the lowest value that it was given, and gives it on."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0.0

    def forward(self, z_BD: Tensor) -> Tensor:
        self.seen = min(self.seen, float(z_BD.detach().min()))
        return z_BD


@pytest.mark.parametrize("ends", [nn.ReLU(), nn.Identity()])
def test_outputs_are_not_negative_where_the_layer_puts_out_nothing_negative(
    ends: nn.Module,
) -> None:
    lowest = _Lowest()
    body = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 8), ends, lowest)
    victim = Victim(body, nn.Linear(8, CLASSES), torch.full((3,), 127.0), torch.full((3,), 50.0))
    scanned(victim.eval(), layer="3", lr=0.1)
    assert (lowest.seen < -0.5) == isinstance(ends, nn.Identity)


def test_the_layer_is_the_end_of_the_last_stage_but_one() -> None:
    victim = untrained()
    chosen = stages(victim, some_images().x_NCHW)[-2]
    fields = {"steps": 5}
    automatic = FreeEagle.model_validate(fields).scan(victim, some_images(), stream())
    named = FreeEagle.model_validate({**fields, "layer": chosen}).scan(
        victim, some_images(), stream()
    )
    other = FreeEagle.model_validate({**fields, "layer": "0"}).scan(victim, some_images(), stream())
    assert automatic.facts == named.facts != other.facts
    assert automatic.facts["passes"] == 5 * CLASSES
    assert automatic.warning is not None and "miss their class" in automatic.warning


def test_it_refuses_what_it_cannot_look_into() -> None:
    transformer = untrained(VitTiny())
    with pytest.raises(Infeasible, match="name a layer"):
        FreeEagle(steps=1).scan(transformer, some_images(), stream())
    with pytest.raises(UserError, match="no module 'nothing'"):
        FreeEagle(layer="nothing").scan(untrained(), some_images(), stream())
    three = new_victim(some_images(), 3, SmallCnn(width=4), stream())
    with pytest.raises(Infeasible, match="3 are too few"):
        FreeEagle().scan(three, some_images(), stream())
    three.head = None
    with pytest.raises(Infeasible, match="needs a classifier"):
        FreeEagle().scan(three, some_images(), stream())
    assert FreeEagle().cannot(three.encoder, 4) is not None
    assert FreeEagle().cannot(three.encoder, 5) is None
    assert FreeEagle().fewest_trusted == 0
