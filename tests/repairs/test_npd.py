"""NPD: where its filter stands, what it changes, and its formulas."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raybd.networks.pixels import Pixels
from raybd.networks.resnet18 import Resnet18
from raybd.repairs.npd import Npd, in_ball, insert, place, suppressed, without
from raybd.training.inference import infer
from raybd.training.models import new_victim
from raybd.types.errors import Infeasible
from raybd.types.models import Victim
from tests.repairs.small import linear_victim, noise, sided, sided_victim
from tests.small_scene import small_scene, stream

QUICK = Npd(epochs=2, first_epochs=1, batch_size=12, precision="fp32")


def test_the_place_is_the_second_last_convolution_that_runs() -> None:
    victim, suspects, _ = small_scene()
    assert place(victim, suspects.x_NCHW[:2]) == "6"
    with torch.device("meta"):
        encoder, _ = Resnet18().build(3, 16)
    names = [name for name, module in encoder.named_modules() if isinstance(module, nn.Conv2d)]
    assert names[-2:] == ["layer4.1.conv1", "layer4.1.conv2"]


def test_an_untrained_filter_changes_nothing_up_to_the_epsilon_of_its_normalisation() -> None:
    victim, suspects, _ = small_scene()
    filtered = copy.deepcopy(victim)
    insert(filtered, "6")
    out, before = infer(filtered, suspects.x_NCHW), infer(victim, suspects.x_NCHW)
    assert torch.allclose(out, before, rtol=1e-3, atol=1e-4)
    assert not torch.equal(out, before)


def test_only_the_filter_is_trained() -> None:
    victim, suspects, clean = small_scene()
    defended = QUICK.repair(victim, suspects, clean, stream(1))
    after = defended.victim.state_dict()
    for name, value in victim.state_dict().items():
        inside = name.replace("encoder.6.", "encoder.6.convolution.")
        assert torch.equal(after[inside], value), name
    identity = torch.eye(16).view(16, 16, 1, 1)
    assert not torch.equal(after["encoder.6.polarizer.0.weight"], identity)
    assert defended.facts["steps"] == 2 * 3
    assert all(parameter.requires_grad for parameter in defended.victim.parameters())


class Scaled(nn.Module):
    """A block with a parameter of its own beside the convolutions, as ConvNeXt's have."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))
        self.fixed = nn.Parameter(torch.ones(4), requires_grad=False)
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        z_BD: Tensor = self.body(x_BCHW).mean((2, 3)) * self.scale * self.fixed
        return z_BD


def test_parameters_beside_the_way_to_the_filter_stay_as_well() -> None:
    _, suspects, clean = small_scene()
    victim = Victim(Scaled(), nn.Linear(4, 3), torch.zeros(3), torch.ones(3)).eval()
    fixed = QUICK.repair(victim, suspects, clean, stream(1)).victim
    after = fixed.state_dict()
    assert "encoder.body.0.polarizer.1.weight" in after
    assert torch.equal(after["encoder.scale"], victim.state_dict()["encoder.scale"])
    gradients = {name: each.requires_grad for name, each in fixed.named_parameters()}
    assert {name for name, wanted in gradients.items() if not wanted} == {"encoder.fixed"}


def test_its_statistics_move_only_before_images_are_perturbed() -> None:
    victim, suspects, clean = small_scene()
    states = [
        QUICK.model_copy(update=fields).repair(victim, suspects, clean, stream(1)).victim
        for fields in ({"epochs": 1}, {"epochs": 3}, {"first_epochs": 2})
    ]
    means = [each.state_dict()["encoder.6.polarizer.1.running_mean"] for each in states]
    assert torch.equal(means[0], means[1])
    assert not torch.equal(means[0], means[2])


def test_a_perturbation_is_shortened_to_the_ball() -> None:
    d_BCHW = torch.stack([torch.full((3, 4, 4), 0.5), torch.full((3, 4, 4), 0.01)])
    short_BCHW = in_ball(d_BCHW, 3.0)
    assert float(short_BCHW[0].norm()) == pytest.approx(3.0)
    assert torch.equal(short_BCHW[1], d_BCHW[1])
    assert in_ball(torch.zeros(1, 3, 4, 4), 3.0).abs().max() == 0


def test_the_loss_of_a_probability_is_finite_at_one() -> None:
    p_BK = torch.tensor([[0.5, 0.5], [0.0, 1.0]])
    found = suppressed(p_BK, torch.tensor([0, 1])).tolist()
    assert found == pytest.approx([-math.log(0.5001), -math.log(0.0001)], rel=1e-3)


def test_a_class_that_is_out_of_the_question_is_never_the_top() -> None:
    logits_BK = torch.tensor([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0]])
    assert without(logits_BK, torch.tensor([0, 0])).argmax(1).tolist() == [1, 2]


def test_the_search_steps_toward_the_second_class_inside_the_ball_and_the_pixels() -> None:
    victim, split = linear_victim(), noise(30)
    npd = Npd(radius=0.25, search_step=0.02, search_steps=3, enough=1.0)
    worn_BCHW, wanted_B, said_B = npd.search(victim, split.x_NCHW, split.y_N)
    logits_BK = victim(split.x_NCHW)
    second = logits_BK.clone()
    second[torch.arange(30), split.y_N] = -torch.inf
    assert torch.equal(wanted_B, second.argmax(1))
    assert torch.equal(said_B, logits_BK.argmax(1))

    pixels = split.x_NCHW.float() / 255
    d = torch.zeros_like(pixels)
    for _ in range(3):
        d.requires_grad_()
        loss = F.cross_entropy(victim(255 * (pixels + d)), wanted_B, reduction="sum")
        (slope,) = torch.autograd.grad(loss, d)
        d = d.detach() - 0.02 * slope.sign()
        norm = d.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        d = torch.where(norm > 0.25, d * 0.25 / norm, d)
        d = (pixels + d).clamp(0, 1) - pixels
    assert torch.allclose(worn_BCHW, 255 * (pixels + d), atol=0.05)
    assert float(worn_BCHW.min()) >= 0 and float(worn_BCHW.max()) <= 255.001

    # It stops where enough images have the class: before the first step, if few are enough.
    at_once = npd.model_copy(update={"enough": 0.01})
    reached = (logits_BK.argmax(1) == wanted_B).any()
    unmoved = torch.allclose(at_once.search(victim, split.x_NCHW, split.y_N)[0], 255 * pixels)
    assert reached and unmoved


def test_a_radius_that_leads_nowhere_is_a_warning() -> None:
    nowhere = QUICK.model_copy(update={"radius": 1e-6, "first_lr": 1e-9, "lr": 1e-9})
    # An epoch of statistics alone may not cost what the network knows.
    nowhere = nowhere.model_copy(update={"batch_size": 80})
    defended = nowhere.repair(sided_victim(), sided(10, 1), sided(100, 1), stream(1))
    assert defended.facts["led_share"] == 0
    assert "raise radius" in str(defended.warning)
    assert QUICK.repair(sided_victim(), sided(10, 1), sided(100, 1), stream(1)).facts["led_share"]


def test_fewer_than_two_convolutions_are_refused() -> None:
    _, suspects, clean = small_scene()
    flat = new_victim(suspects, 3, Pixels(side=4), stream()).eval()
    assert "fewer than two" in str(QUICK.cannot(flat.encoder, 3))
    with pytest.raises(Infeasible, match="fewer than two"):
        QUICK.repair(flat, suspects, clean, stream())
