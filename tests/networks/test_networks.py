"""Networks: what single architectures promise, and their pretrained weights."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

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


def images(side: int, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(1))


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
    """Compute with one thread: in steps this small, several only wait for each other."""
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
