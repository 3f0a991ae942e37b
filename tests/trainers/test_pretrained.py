"""Published weights as they are."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from raybd.networks.resnet18 import Resnet18
from raybd.networks.small_cnn import SmallCnn
from raybd.trainers.pretrained import Pretrained
from raybd.training.inference import infer
from raybd.types.errors import UserError
from tests.clips import (
    some_images,
    stream,
)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """The steps are tiny."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@torch.no_grad()
def test_pretrained_takes_torchvisions_weights_under_the_moments_of_the_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.models import ResNet18_Weights, resnet18

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    stored = resnet18()
    torch.save(
        stored.state_dict(),
        tmp_path / "hub" / "checkpoints" / Path(ResNet18_Weights.IMAGENET1K_V1.url).name,
    )
    stored.fc = nn.Identity()
    split = some_images(8, side=32)
    victim = Pretrained().train(split, 4, Resnet18(stem="imagenet", pretrained=True), stream())
    assert victim.head is None
    assert victim.preprocess(split.x_NCHW).mean((0, 2, 3)).tolist() == pytest.approx(
        [0, 0, 0], abs=1e-4
    )
    assert torch.allclose(
        infer(victim, split.x_NCHW), stored.eval()(victim.preprocess(split.x_NCHW)), atol=1e-4
    )


def test_weights_of_its_own_are_what_pretrained_wants() -> None:
    for network in (SmallCnn(), Resnet18()):
        with pytest.raises(UserError, match="no weights of its own"):
            Pretrained().train(some_images(), 4, network, stream())
