"""Networks: every file of the role keeps the contract, and the sizes are those of the papers."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from raybd import registry
from raybd.datasets.digits import Digits
from raybd.networks.convnext_tiny import ConvnextTiny
from raybd.networks.pixels import Pixels
from raybd.networks.resnet18 import Resnet18
from raybd.networks.small_cnn import SmallCnn
from raybd.networks.vgg19_bn import Vgg19Bn
from raybd.networks.vit_b_16 import VitB16
from raybd.networks.vit_tiny import VitTiny
from raybd.training import inference, loop, models, recipe
from raybd.types.errors import UserError

FIELDS: dict[str, dict[str, Any]] = {
    "clip": {"model": "ViT-S-32-alt"},
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
    "tiny_clip": 64,
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
    "tiny_clip": (0.45e6, 0.48e6),
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


def test_vit_enlarges_small_images_by_itself() -> None:
    encoder, _ = VitB16().build(10, 32)
    with torch.no_grad():
        assert encoder.eval()(images(32)).shape == (2, 768)


def test_vit_tiny_says_what_does_not_fit() -> None:
    with pytest.raises(
        UserError, match=r"images of 30 pixels can't be cut into patches of 4\n.*divisor"
    ):
        VitTiny().build(10, 30)
    with pytest.raises(ValidationError, match="width 64 can't be shared by 3 heads"):
        VitTiny(width=64)
    encoder, _ = VitTiny(patch=16).build(10, 64)
    with torch.no_grad():
        assert encoder.eval()(images(64)).shape == (2, 192)


def test_pixels_are_the_image() -> None:
    encoder, _ = Pixels().build(10, 32)
    assert torch.equal(encoder(images(32)), images(32).flatten(1))
    assert not list(encoder.parameters())


def test_convnext_can_enlarge_small_images() -> None:
    encoder, _ = ConvnextTiny(input_size=64).build(10, 8)
    with torch.no_grad():
        assert encoder.eval()(images(8)).shape == (2, 768)


def test_stems_differ_in_resolution() -> None:
    small, _ = Resnet18().build(10, 32)
    large, _ = Resnet18(stem="imagenet").build(10, 224)
    seen = []
    for encoder in (small, large):
        encoder.eval().layer1.register_forward_hook(
            lambda _module, _inputs, out: seen.append(out.shape[-1])
        )  # type: ignore[union-attr]
        with torch.no_grad():
            encoder(images(64))
    assert seen == [64, 16]


def test_convolutions_keep_the_scale_of_the_signal() -> None:
    for kind in ("small_cnn", "preact_resnet18", "wide_resnet16_1", "vgg19_bn", "resnet18"):
        encoder, head = build(kind)
        with torch.no_grad():
            logits_BK = head(encoder.train()(images(32, batch=16)))
        assert 0.01 < logits_BK.std() < 10, kind


@pytest.mark.parametrize("network", [Vgg19Bn(), ConvnextTiny()])
def test_images_that_are_too_small_are_refused(network: Any) -> None:
    with pytest.raises(
        UserError, match=r"images of 8 pixels are too small.*\n.*`size` to 32 or more"
    ):
        network.build(10, 8)


def test_pretrained_weights_need_their_stem() -> None:
    with pytest.raises(ValidationError, match="set stem to imagenet"):
        Resnet18(pretrained=True)


@pytest.mark.parametrize(
    "network",
    [
        Resnet18(stem="imagenet", pretrained=True),
        VitB16(pretrained=True),
        ConvnextTiny(pretrained=True),
    ],
)
def test_without_network_pretrained_weights_are_a_clear_error(
    network: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    began = time.monotonic()
    with pytest.raises(
        UserError,
        match=r"ImageNet weights could not be had from https.*\nSet `pretrained` to false",
    ):
        network.build(10, 32)
    assert time.monotonic() - began < 30
    assert capsys.readouterr().out == ""


def test_pretrained_weights_are_taken_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.models import ResNet18_Weights, resnet18

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    stored = resnet18()
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    torch.save(stored.state_dict(), cache / Path(ResNet18_Weights.IMAGENET1K_V1.url).name)
    encoder, head = Resnet18(stem="imagenet", pretrained=True).build(7, 64)
    with torch.no_grad():
        stored.fc = nn.Identity()
        assert torch.equal(encoder.eval()(images(64)), stored.eval()(images(64)))
        assert head(encoder(images(64))).shape == (2, 7)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Steps this small take many times as long when the threads of several programs wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_small_cnn_learns_the_digits_in_ten_epochs() -> None:
    digits = Digits(limit=1300).load()
    rng = torch.Generator().manual_seed(0)
    victim = models.new_victim(digits.train, 10, SmallCnn(), rng)
    loop.fit(victim, digits.train, recipe.Recipe(epochs=10, lr=0.1, augment="none"), rng)
    correct_N = inference.infer(victim, digits.test.x_NCHW).argmax(1) == digits.test.y_N
    assert correct_N.float().mean() > 0.95
