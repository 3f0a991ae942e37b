"""Networks: the contract that every file of the role keeps, and the sizes of the papers."""

from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from raybd import registry
from raybd.training.loop import fit
from raybd.training.models import new_victim
from raybd.training.recipe import Recipe
from raybd.types.data import Split
from raybd.types.models import Network
from tests.small_scene import images as small_images

FIELDS: dict[str, dict[str, Any]] = {
    "clip": {"model": "ViT-S-32-alt"},
    "timm": {"model": "convnext_atto"},
    "torchvision": {"model": "shufflenet_v2_x0_5"},
    "vit_b_16": {"input_size": 32},
}
"""What keeps a network small enough for a test."""
WIDTHS = {
    "clip": 256,
    "convnext_tiny": 768,
    "pixels": 3072,
    "preact_resnet18": 512,
    "resnet18": 512,
    "small_cnn": 128,
    "small_resnet": 128,
    "timm": 320,
    "tiny_clip": 64,
    "torchvision": 1024,
    "vgg19_bn": 512,
    "vit_b_16": 768,
    "vit_tiny": 192,
    "wide_resnet16_1": 64,
}
SIZES = {
    "clip": (43.2e6, 43.3e6),
    "convnext_tiny": (27.8e6, 27.9e6),
    "pixels": (30_729, 30_731),
    "preact_resnet18": (11.16e6, 11.18e6),
    "resnet18": (11.16e6, 11.18e6),
    "small_cnn": (0.05e6, 0.3e6),
    "small_resnet": (0.3e6, 0.32e6),
    "timm": (3.3e6, 3.5e6),
    "tiny_clip": (0.45e6, 0.48e6),
    "torchvision": (0.34e6, 0.36e6),
    "vgg19_bn": (20.0e6, 20.1e6),
    "vit_b_16": (85.0e6, 86.0e6),
    "vit_tiny": (2.6e6, 2.8e6),
    "wide_resnet16_1": (0.170e6, 0.180e6),
}
"""Parameters with 10 classes."""


def build(kind: str, seed: int = 0) -> tuple[nn.Module, nn.Module]:
    config: Any = registry.method_class("networks", kind)(**FIELDS.get(kind, {}))
    torch.manual_seed(seed)
    encoder, head = config.build(10, 32)
    return encoder, head


def images(side: int, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", registry.names("networks"))
def test_every_network_keeps_the_contract(kind: str) -> None:
    encoder, head = build(kind)
    model = nn.Sequential(encoder, head).eval()
    assert (
        SIZES[kind][0] < sum(parameter.numel() for parameter in model.parameters()) < SIZES[kind][1]
    )

    z_BD = encoder(images(32))
    logits_BK = head(z_BD)
    assert z_BD.shape == (2, WIDTHS[kind])
    assert logits_BK.shape == (2, 10)
    assert not torch.equal(logits_BK[0], logits_BK[1])
    nn.functional.cross_entropy(logits_BK, torch.tensor([0, 1])).backward()
    unreached = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert [
        name for name in unreached if not name.startswith("0.read.")
    ] == []  # a CLIP's text tower embeds no images

    with torch.no_grad():
        logits_BK = model(images(32))
        assert torch.equal(model(images(32)), logits_BK)
        same_encoder, same_head = build(kind)
        for mine, other in zip(
            model.parameters(), nn.Sequential(same_encoder, same_head).parameters(), strict=True
        ):
            assert torch.equal(mine, other)

        other = nn.Sequential(*build(kind, seed=1)).eval()
        assert not torch.equal(other(images(32)), logits_BK)
        other.load_state_dict(model.state_dict())
        assert torch.equal(other(images(32)), logits_BK)


@pytest.mark.parametrize("kind", registry.names("networks"))
def test_every_network_runs_in_bf16_and_channels_last(kind: str) -> None:
    encoder, head = build(kind)
    model = nn.Sequential(encoder, head).to(memory_format=torch.channels_last).train()
    with torch.autocast("cpu", torch.bfloat16):
        logits_BK = model(images(32, batch=4).contiguous(memory_format=torch.channels_last))
    assert logits_BK.isfinite().all()


@pytest.mark.parametrize(
    "kind", [kind for kind in registry.names("networks") if not kind.startswith("vit")]
)
def test_larger_images_have_the_same_embedding_width(kind: str) -> None:
    encoder, _ = build(kind)
    with torch.no_grad():
        assert encoder.eval()(images(64)).shape == (2, WIDTHS[kind])


@pytest.mark.parametrize("kind", registry.names("networks"))
def test_every_field_is_explained(kind: str) -> None:
    fields = registry.method_class("networks", kind).model_fields.values()
    assert registry.summary("networks", kind)
    assert all(field.description for field in fields)


def test_convolutions_keep_the_scale_of_the_signal() -> None:
    for kind in ("small_cnn", "preact_resnet18", "wide_resnet16_1", "vgg19_bn", "resnet18"):
        encoder, head = build(kind)
        with torch.no_grad():
            logits_BK = head(encoder.train()(images(32, batch=16)))
        assert 0.01 < logits_BK.std() < 10, kind


SLOW_TO_TRAIN = {"clip", "vit_b_16"}


@pytest.mark.parametrize("kind", [k for k in registry.names("networks") if k not in SLOW_TO_TRAIN])
def test_the_random_stream_of_a_training_decides_it_whatever_the_global_one(kind: str) -> None:
    split = Split(small_images(8, side=32), torch.arange(8) % 2)
    network = registry.method_class("networks", kind)(**FIELDS.get(kind, {}))
    recipe = Recipe(epochs=1, batch_size=4, lr=0.01, augment="none", precision="fp32")

    def trained(global_seed: int) -> dict[str, Tensor]:
        rng = torch.Generator().manual_seed(0)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(global_seed)
            victim = new_victim(split, 2, cast(Network, network), rng)
            before = torch.get_rng_state()
            state = fit(victim, split, recipe, rng).state_dict()
            assert torch.equal(torch.get_rng_state(), before), "the global stream is left alone"
        return state

    first = trained(1)
    second = trained(2)
    assert all(torch.equal(second[name], tensor) for name, tensor in first.items())
