"""NAD: its attention, its loss by the formula, and the places that it compares."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raybd.networks.pixels import Pixels
from raybd.networks.preact_resnet18 import PreactResnet18
from raybd.networks.vit_tiny import VitTiny
from raybd.repairs.nad import Nad, attended, attention
from raybd.training.held_out import fit_and_held
from raybd.training.loop import fit
from raybd.training.models import new_victim
from raybd.training.runtime import Runtime, running
from raybd.types.errors import Infeasible
from raybd.types.models import Victim
from tests.small_scene import images, small_scene, stream

FULL_BATCH = Nad(epochs=1, teacher_epochs=2, batch_size=1000, lr=0.05, precision="fp32")


def test_attention_is_the_energy_over_channels_of_norm_one() -> None:
    # Two channels over two positions.
    out = torch.tensor([[[[1.0, 0.0]], [[0.0, 2.0]]]])
    found = attention(out, 2.0)
    assert found.shape == (1, 2)
    assert found[0].tolist() == pytest.approx([0.2425, 0.9701], abs=1e-4)
    assert attention(out, 1.0)[0].tolist() == pytest.approx([1 / 5**0.5, 2 / 5**0.5], abs=1e-4)
    # Tokens are positions.
    assert attention(torch.ones(1, 4, 7), 2.0).shape == (1, 4)


def ends_of_stages(victim: Victim, x_NCHW: Tensor) -> list[Tensor]:
    """What the ReLUs of a small_cnn put out that end a size of maps: the first, second and last."""
    layers = list(victim.encoder.children())
    outputs = []
    out = victim.preprocess(x_NCHW)
    for place, layer in enumerate(layers):
        out = layer(out)
        if place in (2, 5, 11):
            outputs.append(out)
    return outputs


def test_the_loss_is_cross_entropy_and_the_weighted_distance_of_attention() -> None:
    victim, suspects, clean = small_scene()
    told: list[Any] = []
    with running(Runtime(report=told.append)):
        FULL_BATCH.repair(victim, suspects, clean, stream(1))
    (loss,) = [facts["loss"] for facts in told if facts["name"] == "nad"]

    rng = stream(1)
    learned, _ = fit_and_held(clean, rng)
    recipe = FULL_BATCH.resolved().model_copy(update={"epochs": 2})
    teacher = fit(copy.deepcopy(victim), learned, recipe, rng)
    student = copy.deepcopy(victim).train()
    with torch.no_grad():
        expected = F.cross_entropy(copy.deepcopy(student)(learned.x_NCHW), learned.y_N)
        wanted = ends_of_stages(teacher, learned.x_NCHW)
        found = ends_of_stages(student, learned.x_NCHW)
        for beta, theirs, ours in zip((500, 1000, 1000), wanted, found, strict=True):
            maps = []
            for out in (theirs, ours):
                energy = out.square().sum(1).flatten(1)
                maps.append(energy / energy.norm(dim=1, keepdim=True))
            expected = expected + beta * F.mse_loss(maps[0], maps[1])
    assert loss == pytest.approx(float(expected), rel=1e-3)


def test_the_places_are_the_last_of_each_size_or_the_last_blocks() -> None:
    victim, suspects, _ = small_scene()
    assert attended(victim, suspects.x_NCHW[:2], 3) == ["2", "5", "11"]
    assert attended(victim, suspects.x_NCHW[:2], 1) == ["11"]
    transformer = new_victim(suspects, 3, VitTiny(depth=4, width=16, heads=1), stream())
    assert attended(transformer, suspects.x_NCHW[:2], 3) == [
        f"encoder.layers.encoder_layer_{layer}" for layer in (1, 2, 3)
    ]


@pytest.mark.slow
def test_the_places_in_a_residual_network_are_its_stages() -> None:
    _, suspects, _ = small_scene()
    victim = new_victim(suspects, 3, PreactResnet18(), stream())
    # Stem, four stages of two blocks, BN and ReLU: ends of stages 2 and 3, and the last ReLU.
    assert attended(victim, suspects.x_NCHW[:2], 3) == ["4", "6", "10"]


def test_a_network_of_fewer_stages_takes_the_last_weights() -> None:
    _, suspects, clean = small_scene()
    conv = nn.Conv2d(3, 8, 3, 2, 1)
    encoder = nn.Sequential(conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    victim = Victim(encoder, nn.Linear(8, 3), torch.zeros(3), torch.ones(3)).eval()
    defended = FULL_BATCH.repair(victim, suspects, clean, stream(1))
    assert defended.facts["stages"] == 1
    assert defended.facts["steps"] == 3
    assert 0 <= defended.facts["teacher_accuracy"] <= 1


def test_a_network_without_maps_is_refused() -> None:
    _, suspects, clean = small_scene()
    victim = new_victim(suspects, 3, Pixels(side=4), stream()).eval()
    assert "nothing to train" in str(Nad().cannot(victim.encoder, 3))
    flat = Victim(
        nn.Sequential(nn.Flatten(), nn.Linear(768, 4)), nn.Linear(4, 3), *2 * [torch.ones(3)]
    )
    assert Nad().cannot(flat.encoder, 3) is None
    with pytest.raises(Infeasible, match="neither maps nor tokens"):
        FULL_BATCH.repair(flat.eval(), suspects, clean, stream())


def test_maps_are_read_where_other_trainings_are_compiled() -> None:
    victim, suspects, clean = small_scene()
    plain = FULL_BATCH.repair(victim, suspects, clean, stream(1)).victim
    with running(Runtime(compile=True)):
        compiled = FULL_BATCH.repair(victim, suspects, clean, stream(1)).victim
    x_NCHW = images(4)
    assert torch.equal(compiled(x_NCHW), plain(x_NCHW))
