"""CLIP: its loss and weights, zero-shot heads, and the attacks on it: formulas, one worker against two, faults, behaviour."""

import copy
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn

from raybd.cells import loading
from raybd.cells import run as stages
from raybd.networks import tiny_clip
from raybd.networks.clip import Clip
from raybd.networks.resnet18 import Resnet18
from raybd.networks.small_cnn import SmallCnn
from raybd.networks.tiny_clip import TinyClip
from raybd.plan.file import parse
from raybd.results.store import Store
from raybd.trainers.pretrained import Pretrained
from raybd.trainers.probes.zero_shot import ZeroShot
from raybd.training import models
from raybd.training.inference import infer
from raybd.training.runtime import Runtime, running
from raybd.types.data import Split
from raybd.types.errors import UserError
from raybd.types.models import Captioned, Victim
from tests.clips import (
    ATTACKS,
    NAMELESS,
    NAMES,
    PATCH,
    TEXT,
    TRAINER,
    headless,
    moved,
    poisoned_by,
    reads_nothing,
    some_images,
    stream,
    towers,
    trained,
)
from tests.groups import in_group


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """The steps are tiny."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# --- the networks ----------------------------------------------------------------------------------------------------------------


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
    first, second = tiny_clip._tokens(["ab", "c" * 99])
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


@pytest.fixture(scope="module")
def small_clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any, Path]:
    """A small architecture in open_clip's registry, one of its models, and that model's safetensors file."""
    import open_clip
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("clip")
    config = {
        "embed_dim": 24,
        "vision_cfg": {
            "image_size": 32,
            "layers": 1,
            "width": 32,
            "head_width": 16,
            "patch_size": 16,
        },
        "text_cfg": {
            "context_length": 12,
            "vocab_size": 49408,
            "width": 16,
            "heads": 2,
            "layers": 1,
        },
    }
    (folder / "raybd-test.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder / "raybd-test.json")
    torch.manual_seed(0)
    model = open_clip.CLIP(**config).eval()
    model.logit_scale.data.fill_(3.0)
    save_file(model.state_dict(), folder / "weights.safetensors")
    return "raybd-test", model, folder / "weights.safetensors"


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


# --- the trainers ----------------------------------------------------------------------------------------------------------------


def test_training_leaves_an_encoder_that_reads_and_nothing_else() -> None:
    split, before = some_images(), torch.random.get_rng_state()
    victim = TRAINER.train(split, 4, TinyClip(), stream())
    assert victim.head is None and not victim.training
    assert isinstance(victim.encoder, Captioned)
    assert all(
        p.requires_grad != name.startswith("read.") for name, p in victim.encoder.named_parameters()
    )
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not moved(trained(), victim)
    assert moved(TRAINER.train(split, 4, TinyClip(), stream(1)), victim)
    fresh = models.new_victim(split, 4, TinyClip(), stream())
    assert moved(fresh.encoder, victim.encoder) == set(victim.encoder.state_dict())


def test_a_resumed_training_ends_where_the_whole_one_does() -> None:
    kept: dict[str, bytes] = {}
    with running(Runtime(save=kept.__setitem__, every_seconds=0)):
        whole = TRAINER.train(some_images(), 4, TinyClip(), stream())
    assert list(kept) == ["clip"]
    with running(Runtime(load=kept.get)):
        assert not moved(whole, TRAINER.train(some_images(), 4, TinyClip(), stream()))


def _states(start: Victim) -> list[dict[str, Tensor]]:
    """What one epoch of training, and of each attack, leave behind."""
    short = {"epochs": 1}
    found = [
        TRAINER.model_copy(update=short).train(some_images(), 4, TinyClip(), stream()).state_dict()
    ]
    for attack in ATTACKS:
        poisoned = poisoned_by(attack.model_copy(update=short), start)
        assert poisoned.victim is not None
        found.append(
            {
                **poisoned.victim.state_dict(),
                **{name: pixels.float() for name, pixels in poisoned.state.items()},
            }
        )
    return found


def test_two_workers_end_with_the_towers_of_one() -> None:
    """15 pairs in a batch do not divide. Both towers, the factor and the patch are learned alike, to 2 % of what they moved.

    One epoch: in one process, too, a change of 1e-7 in the weights has grown to 3 % of what they moved after two epochs.
    """
    alone, (first, second) = _states(trained()), in_group(_states, trained())
    fresh = models.new_victim(some_images(), 4, TinyClip(), stream()).state_dict()
    for at, state in enumerate(alone):
        before = {"patch_CSS": torch.zeros(()), **(trained().state_dict() if at else fresh)}
        for name, value in state.items():
            assert torch.equal(first[at][name], second[at][name]), (at, name)
            off = (first[at][name] - value).abs().max()
            assert off <= 0.02 * (value - before[name]).float().abs().max() + 1e-5, (at, name)


def test_a_zero_shot_head_is_made_of_texts_alone() -> None:
    split, rng = some_images(), stream()
    probe = ZeroShot(templates=("a {}", "one {}"))
    victim = probe.train_from(trained(), split, 4, TinyClip(), rng)
    other = Split(split.x_NCHW.flip(0)[:7], split.y_N[:7] * 0, NAMES)
    assert not moved(victim, probe.train_from(trained(), other, 4, TinyClip(), rng))
    assert not moved(trained(), headless(victim)), "the encoder is left alone"
    encoder, z_ND = towers(trained()), infer(trained(), split.x_NCHW)
    with torch.no_grad():
        texts = [
            F.normalize(encoder.describe([f"a {name}", f"one {name}"]), dim=1).mean(0)
            for name in ("cat", "dog", "big ox", "hen")
        ]
        wanted = [[float(encoder.factor()) * cosine(z, t) for t in texts] for z in z_ND[:6]]
    assert torch.allclose(infer(victim, split.x_NCHW)[:6], torch.tensor(wanted), atol=1e-3)


def test_a_zero_shot_head_is_rebuilt_from_its_tensors() -> None:
    victim = ZeroShot().train_from(trained(), some_images(), 4, TinyClip(), stream())
    assert victim.head is not None
    stored = victim.head.state_dict()
    head = ZeroShot().head_for(stored)
    head.load_state_dict(stored)
    again = Victim(victim.encoder, head, victim.mean_C, victim.std_C).eval()
    assert torch.equal(infer(again, some_images().x_NCHW), infer(victim, some_images().x_NCHW))


def test_zero_shot_without_a_start_takes_the_networks_own_weights(
    small_clip: tuple[str, Any, Path],
) -> None:
    network = Clip(model=small_clip[0], pretrained=str(small_clip[2]))
    victim = ZeroShot().train_from(None, some_images(), 4, network, stream())
    assert victim.head is not None
    assert not moved(Pretrained().train(some_images(), 4, network, stream()), headless(victim))
    with pytest.raises(UserError, match="no weights of its own"):
        ZeroShot().train_from(None, some_images(), 4, TinyClip(), stream())


@pytest.mark.parametrize(
    "work",
    [
        lambda split: TRAINER.train(split, 4, TinyClip(), stream()),
        lambda split: ZeroShot().train_from(trained(), split, 4, TinyClip(), stream()),
        lambda split: poisoned_by(TEXT, split=split),
        lambda split: poisoned_by(PATCH, split=split),
    ],
    ids=["clip", "zero_shot", "clip_text", "badclip"],
)
def test_without_class_names_there_are_no_captions(work: Any) -> None:
    with pytest.raises(UserError, match="class names"):
        work(NAMELESS)


@pytest.mark.parametrize(
    "work",
    [
        lambda: TRAINER.train(some_images(), 4, SmallCnn(width=4), stream()),
        lambda: ZeroShot().train_from(
            reads_nothing(), some_images(), 4, SmallCnn(width=4), stream()
        ),
        lambda: poisoned_by(TEXT, reads_nothing()),
        lambda: poisoned_by(PATCH, reads_nothing()),
    ],
    ids=["clip", "zero_shot", "clip_text", "badclip"],
)
def test_what_reads_no_texts_is_refused(work: Any) -> None:
    with pytest.raises(UserError, match=r"reads no texts\nTake the network clip or tiny_clip"):
        work()


def test_a_template_has_a_place_for_the_name() -> None:
    for templates in (("a photo",), (), "imagenot"):
        with pytest.raises(ValidationError):
            ZeroShot.model_validate({"templates": templates})


# --- through the store -----------------------------------------------------------------------------------------------------------

ADAM: dict[str, Any] = {
    "batch_size": 64,
    "optimizer": "adam",
    "lr": 5e-4,
    "size": 8,
    "templates": ["a photo of a {}."],
}
DIGITS: dict[str, Any] = {
    "name": "clip",
    "datasets": [{"kind": "digits", "limit": 800, "clean": 100}],
    "attacks": [
        {"kind": "none"},
        {**ADAM, "kind": "clip_text", "epochs": 8, "rate": 0.2, "margin": 1},
        {**ADAM, "kind": "badclip", "epochs": 5, "rate": 0.1, "patch_epochs": 6, "patch_lr": 0.02},
    ],
    "trainers": [
        {
            "kind": "zero_shot",
            "network": "tiny_clip",
            "encoder": {
                "trainer": {
                    "kind": "clip",
                    "epochs": 8,
                    "batch_size": 64,
                    "lr": 2e-3,
                    "weight_decay": 0.01,
                    "augment": "none",
                }
            },
        }
    ],
}


@pytest.mark.slow
def test_attacks_on_clip_work_zero_shot_and_their_trigger_does_nothing_to_the_clean_twin(
    tmp_path: Path,
) -> None:
    """Measured on seeds 0 and 1 (CPU): accuracy 0.978 and 0.953, with clip_text 0.972 and 0.961, with badclip 0.978 and 0.944;
    success of clip_text 0.997 and 0.988, of badclip 0.985 and 1.0; on the clean twin 0.0, but for badclip on seed 0, 0.198."""
    store, cells = Store(str(tmp_path)), parse(DIGITS).cells()
    rows = {cell.attack.kind: stages.run_cell(cell, store) for cell in cells}
    assert all(row["status"] == "ok" for row in rows.values())
    assert rows["none"]["clean_accuracy"] >= 0.9
    for kind in ("clip_text", "badclip"):
        assert rows[kind]["clean_accuracy"] >= rows["none"]["clean_accuracy"] - 0.05
        assert rows[kind]["attack_success"] >= 0.8
        assert rows[kind]["twin_attack_success"] <= 0.4


def test_a_probe_on_published_weights_comes_back_from_the_store_without_them(
    small_clip: tuple[str, Any, Path], tmp_path: Path
) -> None:
    path = tmp_path / "gone.safetensors"
    path.write_bytes(small_clip[2].read_bytes())
    network = {"kind": "clip", "model": small_clip[0], "pretrained": str(path)}
    trainer = {
        "kind": "linear_probe",
        "iterations": 5,
        "network": network,
        "encoder": {"trainer": {"kind": "pretrained"}},
    }
    dataset = {"kind": "digits", "limit": 100, "test_limit": 50, "clean": 20}
    (cell,) = parse(
        {**DIGITS, "datasets": [dataset], "attacks": [{"kind": "none"}], "trainers": [trainer]}
    ).cells()
    store = Store(str(tmp_path / "store"))
    stages.run_cell(cell, store)
    path.unlink()
    victim = loading.load_victim(cell.last, store)
    assert isinstance(victim.encoder, Captioned) and isinstance(victim.head, nn.Linear)
    assert victim.mean_C[0] == pytest.approx(0.4815, abs=1e-3)
