"""CLIP training and zero-shot heads; networks and attacks that need texts refuse others."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor

from raybd.networks.clip import Clip
from raybd.networks.small_cnn import SmallCnn
from raybd.networks.tiny_clip import TinyClip
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


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / a.norm() / b.norm())


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
    """15 pairs do not divide by 2. Towers, factor and patch are alike to 2 % of what they moved.

    One epoch: in one process, too, a change of 1e-7 in the weights grows to 3 % of what they
    moved after two epochs.
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
    again = Victim(victim.encoder, None, victim.mean_C, victim.std_C).eval()
    ZeroShot().reshape(again, victim.state_dict())
    again.load_state_dict(victim.state_dict())
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
