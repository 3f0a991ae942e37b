"""CLIP: its loss, its texts, and the weights that it takes."""

import copy
import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from safetensors.torch import save
from torch import Tensor

from raybd.networks import tiny_clip
from raybd.networks.clip import Clip
from raybd.trainers.pretrained import Pretrained
from raybd.training import models
from raybd.training.inference import infer
from raybd.types.errors import UserError
from raybd.types.models import Victim
from tests.clips import (
    NAMES,
    some_images,
    stream,
    towers,
    trained,
)
from tests.hostile import refusal


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """The steps are tiny."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / a.norm() / b.norm())


@torch.no_grad()
def test_the_contrast_shares_what_is_right_among_images_of_one_class() -> None:
    """Term by term: every image over all captions and every caption over all images."""
    encoder, z_BD = towers(trained()), torch.randn((5, 64), generator=stream())
    texts, y = ["a cat", "one dog", "one cat", "a hen", "a cat"], [0, 1, 0, 3, 0]
    t_BD, factor = encoder.describe(texts), float(encoder.factor())
    logits = [[factor * cosine(z, t) for t in t_BD] for z in z_BD]
    total = 0.0
    for i in range(5):
        right = [j for j in range(5) if y[j] == y[i]]
        over_texts = math.log(sum(math.exp(logits[i][j]) for j in range(5)))
        over_images = math.log(sum(math.exp(logits[j][i]) for j in range(5)))
        total -= sum(logits[i][j] - over_texts + logits[j][i] - over_images for j in right) / len(
            right
        )
    assert encoder.contrast(z_BD, texts, torch.tensor(y)).item() == pytest.approx(
        total / 10, abs=1e-4
    )


@torch.no_grad()
def test_where_no_class_comes_twice_the_contrast_is_that_of_open_clip() -> None:
    from open_clip import ClipLoss

    encoder, z_BD = towers(trained()), torch.randn((4, 64), generator=stream())
    texts = encoder.captions(NAMES, ("a {}",))
    wanted = ClipLoss()(
        F.normalize(z_BD, dim=1), F.normalize(encoder.describe(texts), dim=1), encoder.factor()
    )
    assert encoder.contrast(z_BD, texts, torch.arange(4)).item() == pytest.approx(
        wanted.item(), abs=1e-5
    )


def test_captions_name_each_class_in_each_template() -> None:
    encoder = towers(trained())
    assert encoder.captions(NAMES[1:3], ("a {}.", "{}!")) == [
        "a dog.",
        "dog!",
        "a big ox.",
        "big ox!",
    ]
    many = encoder.captions(NAMES, "imagenet")
    assert len(set(many)) == len(many) == 4 * 80
    assert all("big ox" in text for text in many[160:240])
    with pytest.raises(UserError, match="CLIP reads class names"):
        encoder.captions((), ("a {}",))


@torch.no_grad()
def test_a_byte_is_a_token_and_the_end_is_where_the_text_tower_looks() -> None:
    first, second = tiny_clip.tokens(["ab", "c" * 99])
    assert first.tolist() == [256, 97, 98, 257] + [0] * 44
    assert second.tolist() == [256] + [99] * 46 + [257]
    encoder = towers(trained())
    texts = [f"number {at}" for at in range(300)]
    assert torch.allclose(encoder.describe(texts)[290:], encoder.describe(texts[290:]), atol=1e-5)
    assert not torch.allclose(*encoder.describe(["a cat", "a hen"]), atol=1e-3)


def test_the_factor_is_100_at_most_and_starts_afresh_with_the_rest() -> None:
    encoder = copy.deepcopy(towers(trained()))
    encoder.read.log_factor.data.fill_(9.0)
    assert encoder.factor().item() == pytest.approx(100)
    again = models.fresh_copy(Victim(encoder, None, torch.zeros(3), torch.ones(3)), stream())
    assert towers(again).factor().item() == pytest.approx(1 / 0.07, rel=1e-4)


@torch.no_grad()
def test_weights_of_a_safetensors_file_embed_as_open_clips_model_does(
    small_clip: tuple[str, Any, Path],
) -> None:
    import open_clip

    name, model, path = small_clip
    split, texts = some_images(side=32), ["a cat", "a photo of a hen"]
    victim = Pretrained().train(split, 4, Clip(model=name, pretrained=str(path)), stream())
    mean_C, std_C = (
        torch.tensor(part) for part in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    )
    assert victim.head is None
    assert torch.allclose(victim.mean_C, mean_C) and torch.allclose(victim.std_C, std_C)
    x_NCHW = (split.x_NCHW / 255 - mean_C.view(3, 1, 1)) / std_C.view(3, 1, 1)
    assert torch.allclose(infer(victim, split.x_NCHW), model.encode_image(x_NCHW), atol=1e-4)
    assert torch.allclose(
        towers(victim).describe(texts), model.encode_text(open_clip.tokenize(texts, 12)), atol=1e-5
    )
    assert towers(victim).factor().item() == pytest.approx(math.exp(3), rel=1e-4)


@torch.no_grad()
def test_images_of_another_size_are_resized_inside(small_clip: tuple[str, Any, Path]) -> None:
    encoder, head = Clip(model=small_clip[0]).build(4, 48)
    x_BCHW = torch.rand((2, 3, 48, 48), generator=stream())
    small = F.interpolate(x_BCHW, (32, 32), mode="bicubic", antialias=True)
    assert torch.equal(encoder(x_BCHW), encoder(small))
    assert head(encoder(x_BCHW)).shape == (2, 4)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"model": "RN51"}, "near it: RN50"),
        ({"model": "coca_ViT-B-32"}, "writes captions"),
        ({"pretrained": True}, "name the weights.*openai"),
        ({"pretrained": "opnai"}, "name the weights.*openai"),
        ({"model": "RN50", "pretrained": "openai"}, "set model to RN50-quickgelu"),
        ({"model": "ViT-B-32-quickgelu", "pretrained": "laion400m_e31"}, None),
        (
            {"pretrained": "some/RN50.pt"},
            "some/RN50.pt: pickled checkpoints can run code: convert it",
        ),
        ({"pretrained": "open_clip_pytorch_model.bin"}, "convert it"),
        ({"pretrained": "none.safetensors"}, "there is no file none.safetensors"),
    ],
)
def test_weights_and_architectures_are_checked_before_anything_runs(
    fields: dict[str, Any], why: str | None
) -> None:
    if why is None:
        assert Clip(**fields).pretrained == fields["pretrained"]
        return
    with pytest.raises(ValidationError, match=why):
        Clip(**fields)


def test_a_file_of_weights_is_never_unpickled(
    small_clip: tuple[str, Any, Path], tmp_path: Path
) -> None:
    name, model, _ = small_clip
    disguised = tmp_path / "weights.safetensors"
    torch.save(model, disguised)
    with pytest.raises(UserError, match="can't be had"):
        Clip(model=name, pretrained=str(disguised)).build(4, 32)


def test_weights_of_another_architecture_are_refused(
    small_clip: tuple[str, Any, Path], tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    name, _, path = small_clip
    state = load_file(path)
    state.pop("visual.proj")
    save_file(state, tmp_path / "less.safetensors")
    with pytest.raises(UserError, match=r"can't be had: .*visual.proj"):
        Clip(model=name, pretrained=str(tmp_path / "less.safetensors")).build(4, 32)


def test_without_network_the_hubs_weights_are_a_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        UserError,
        match=r"weights laion2b_s34b_b79k of ViT-B-32 \(huggingface.co/laion/.*\nSet `pretrained`",
    ):
        Clip(model="ViT-B-32", pretrained="laion2b_s34b_b79k").build(4, 32)


def _header(header: Any, body: bytes = b"", length: int | None = None) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


HOSTILE_WEIGHTS: dict[str, bytes | Tensor] = {
    "nothing": b"",
    "a header of exabytes": _header({}, length=2**62),
    "a tensor of terabytes": _header(
        {"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}
    ),
    "numbers that torch lacks": _header(
        {"a": {"dtype": "F4", "shape": [8], "data_offsets": [0, 4]}}, b"1234"
    ),
    "another name with an escape": _header(
        {"\x1b[2J\n": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"1234"
    ),
    "positions without any": torch.zeros(0, 0),
    "positions of a scalar": torch.zeros(()),
    "thin positions": torch.zeros(5, 1),
}


@pytest.mark.parametrize("what", HOSTILE_WEIGHTS)
def test_hostile_weights_are_refused_in_one_line(
    small_clip: tuple[str, Any, Path], tmp_path: Path, what: str
) -> None:
    name, model, _ = small_clip
    path = tmp_path / "weights.safetensors"
    content = HOSTILE_WEIGHTS[what]
    if isinstance(content, Tensor):
        state = model.state_dict() | {"visual.positional_embedding": content}
        content = save({key: tensor.contiguous() for key, tensor in state.items()})
    path.write_bytes(content)
    said = refusal(lambda: Clip(model=name, pretrained=str(path)).build(10, 32))
    assert f"clip: weights {path} of {name} can't be had: " in said


def test_weights_of_gigabytes_for_a_small_architecture_are_not_read(
    small_clip: tuple[str, Any, Path], tmp_path: Path
) -> None:
    name, _, weights = small_clip
    path = tmp_path / "weights.safetensors"
    path.write_bytes(weights.read_bytes())
    with path.open("r+b") as file:
        file.truncate(2**32)
    said = refusal(lambda: Clip(model=name, pretrained=str(path)).build(10, 32))
    assert f"the file has {2**32} bytes; this architecture has " in said
