"""Layers by role: counted by hand on every built-in network, and read as modules put them out."""

from functools import cache

import pytest
import torch
from torch import Tensor, nn

from raybd.networks.convnext_tiny import ConvnextTiny
from raybd.networks.preact_resnet18 import PreactResnet18
from raybd.networks.resnet18 import Resnet18
from raybd.networks.small_cnn import SmallCnn
from raybd.networks.small_resnet import SmallResnet
from raybd.networks.vgg19_bn import Vgg19Bn
from raybd.networks.vit_tiny import VitTiny
from raybd.networks.wide_resnet16_1 import WideResnet16x1
from raybd.training import layers
from raybd.training.inference import infer
from raybd.training.models import new_victim
from raybd.types.data import Split
from raybd.types.models import Network, Victim
from tests.small_scene import images, stream

NETWORKS: list[Network] = [
    SmallCnn(width=4),
    SmallResnet(width=4),
    Resnet18(),
    PreactResnet18(),
    Vgg19Bn(),
    WideResnet16x1(),
    ConvnextTiny(),
    VitTiny(),
]
X = images(2, side=32)


@cache
def victim_of(network: Network) -> Victim:
    return new_victim(Split(X, torch.arange(2)), 3, network, stream()).eval()


def bare(*modules: nn.Module) -> Victim:
    return Victim(nn.Sequential(*modules), None, torch.zeros(3), torch.ones(3)).eval()


@pytest.mark.parametrize(
    ("network", "norms", "pairs"),
    [
        (NETWORKS[0], 4, 4),
        (NETWORKS[1], 1 + 4 * 2 + 3, 1 + 4 * 2 + 3),  # stem, four blocks, three shortcuts
        (NETWORKS[2], 1 + 8 * 2 + 3, 1 + 8 * 2 + 3),
        # Before activation: the first norm of a block normalises a sum, but for the first block,
        # which follows the stem; the last norm of the network normalises a sum.
        (NETWORKS[3], 8 * 2 + 1, 8 + 1),
        (NETWORKS[4], 16, 16),
        (NETWORKS[5], 6 * 2 + 1, 6 + 1),
        (NETWORKS[6], 0, 0),  # layer normalisation
        (NETWORKS[7], 0, 0),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Network) else str(value),
)
def test_norms_and_their_convolutions_are_those_counted_by_hand(
    network: Network, norms: int, pairs: int
) -> None:
    victim = victim_of(network)
    assert len(layers.norms(victim, X)) == norms
    found = layers.conv_norm_pairs(victim, X)
    assert len(found) == pairs
    assert len({id(norm) for _, norm in found.values()}) == pairs
    assert all(conv.out_channels == norm.num_features for conv, norm in found.values())
    assert all(victim.encoder.get_submodule(name) is conv for name, (conv, _) in found.items())


class Crossed(nn.Module):
    """Uses its layers in another order than it defines them in."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_b, self.norm_a = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.conv_b, self.conv_a = nn.Conv2d(4, 4, 1), nn.Conv2d(3, 4, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BCHW = self.norm_a(self.conv_a(x_BCHW))
        out_BCHW: Tensor = self.norm_b(self.conv_b(x_BCHW))
        return out_BCHW


def test_order_and_pairs_are_those_of_execution_not_of_definition() -> None:
    encoder = Crossed()
    victim = bare(encoder)
    assert layers.norms(victim, X) == [encoder.norm_a, encoder.norm_b]
    assert layers.conv_norm_pairs(victim, X) == {
        "0.conv_a": (encoder.conv_a, encoder.norm_a),
        "0.conv_b": (encoder.conv_b, encoder.norm_b),
    }


@pytest.mark.parametrize("between", [nn.ReLU(inplace=True), nn.ReLU(), nn.MaxPool2d(2)])
def test_a_norm_behind_an_activation_is_fed_by_no_convolution(between: nn.Module) -> None:
    victim = bare(nn.Conv2d(3, 4, 1), between, nn.BatchNorm2d(4))
    assert layers.conv_norm_pairs(victim, X) == {}
    assert list(layers.conv_norm_pairs(bare(*victim.encoder[::2]), X)) == ["0"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (NETWORKS[0], ["2", "5", "11"]),
        (NETWORKS[1], ["3", "4", "5", "6"]),
        (NETWORKS[2], ["layer1", "layer2", "layer3", "layer4"]),
        (NETWORKS[3], ["2", "4", "6", "10"]),
        (NETWORKS[4], ["5", "12", "25", "38", "51"]),
        (NETWORKS[5], ["2", "4", "8"]),
        (NETWORKS[6], ["0.features.1", "0.features.3", "0.features.5"]),
        (NETWORKS[7], ["conv_proj"]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Network) else "",
)
def test_stages_end_where_the_size_changes(network: Network, expected: list[str]) -> None:
    victim = victim_of(network)
    assert layers.stages(victim, X) == expected
    found = layers.activations(victim, Split(X, torch.arange(2)), expected)
    sides = [out.shape[-1] for out in found.values()]
    assert sides == sorted(set(sides), reverse=True)


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: type(network).__name__)
def test_the_last_map_has_positions_and_a_tail_leads_from_a_map_to_the_logits(
    network: Network,
) -> None:
    victim = victim_of(network)
    split = Split(X, torch.arange(2))
    last = layers.last_map(victim, X)
    assert last is not None
    first = layers.stages(victim, X)[0]
    read = layers.activations(victim, split, [first, last])
    assert layers.by_position(read[last]).shape[2] > 1

    # The tail ignores the images that it is made with.
    run = layers.tail(victim, first, images(1, side=32, seed=9))
    out = read[first].requires_grad_()
    assert torch.allclose(run(out), infer(victim, X), atol=1e-4)
    run(out).sum().backward()
    assert out.grad is not None and float(out.grad.abs().sum()) > 0
    victim.zero_grad()


def test_without_a_map_there_is_no_last_one() -> None:
    assert layers.last_map(bare(nn.Flatten()), X) is None
    assert layers.stages(bare(nn.Flatten()), X) == []


def test_activations_of_several_layers_are_read_in_one_pass_and_pooled_by_batch() -> None:
    victim = victim_of(SmallCnn(width=4))
    split = Split(images(7, side=32), torch.arange(7))
    found = layers.activations(victim, split, ["2", "5"], lambda out: out.amax((2, 3)))
    with torch.no_grad():
        given = victim.preprocess(split.x_NCHW)
        assert isinstance(victim.encoder, nn.Sequential)
        first = victim.encoder[:3](given)
        second = victim.encoder[3:6](first)
    assert torch.allclose(found["2"], first.amax((2, 3)), atol=1e-5)
    assert torch.allclose(found["5"], second.amax((2, 3)), atol=1e-5)
    whole = layers.activations(victim, split, ["5"])["5"]
    assert torch.allclose(whole, second, atol=1e-5)


def test_an_output_is_read_as_it_was_before_the_next_layer_changed_it() -> None:
    victim = bare(nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with torch.no_grad(), layers.reading(victim, ["0", "1"]) as seen:
        victim.embed(X)
    assert float(seen["0"].min()) < 0
    assert torch.equal(seen["1"], seen["0"].relu())


def test_what_a_layer_is_given_is_read_before_it_changes_it() -> None:
    victim = bare(nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    split = Split(X, torch.arange(2))
    given = layers.activations(victim, split, ["1"], lambda x: x.amin((2, 3)), inputs=True)["1"]
    out = layers.activations(victim, split, ["0"])["0"]
    assert torch.equal(given, out.amin((2, 3)))
    assert float(given.min()) < 0
    assert not any(module._forward_pre_hooks for module in victim.modules())


def test_a_pass_leaves_no_hooks_behind_even_where_it_fails() -> None:
    victim = bare(nn.Conv2d(3, 4, 1), nn.Linear(5, 5))
    with pytest.raises(RuntimeError):
        layers.trace(victim, X)
    with pytest.raises(RuntimeError), layers.reading(victim, ["0"]):
        victim.embed(X)
    assert not any(module._forward_hooks for module in victim.modules())
