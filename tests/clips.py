"""A tiny CLIP, pairs for it and the attacks on it: what several test files share."""

from functools import cache
from typing import Any

import torch
from torch import nn

from raybd.attacks.encoder.badclip import BadClip
from raybd.attacks.encoder.badencoder import BadEncoder
from raybd.attacks.encoder.clip_text import ClipText
from raybd.networks._clip import Clip as Towers
from raybd.networks.small_cnn import SmallCnn
from raybd.networks.tiny_clip import TinyClip
from raybd.trainers.self_supervised.clip import ClipContrast
from raybd.training import models
from raybd.types.data import Poisoned, Split
from raybd.types.methods import Attack, AttackInput
from raybd.types.models import Victim

NAMES = ("cat", "dog", "big_ox", "hen")
TINY: dict[str, Any] = {
    "epochs": 2,
    "batch_size": 15,
    "optimizer": "sgd",
    "lr": 0.02,
    "precision": "fp32",
}
PAIRS: dict[str, Any] = {**TINY, "templates": ("a {}", "one {}"), "rate": 0.2, "size": 5}
TRAINER = ClipContrast(**TINY, weight_decay=1e-3, augment="flip", templates=("a {}", "one {}"))
TEXT = ClipText(**{**PAIRS, "lr": 1e-3}, margin=1)
PATCH = BadClip(**{**PAIRS, "lr": 1e-3}, patch_epochs=2, patch_batch=15, patch_lr=0.05)
ATTACKS: list[Any] = [
    TEXT,
    PATCH,
    BadEncoder(epochs=2, batch_size=15, lr=1e-3, size=5, precision="fp32"),
]


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some_images(n: int = 60, side: int = 16) -> Split:
    """Four classes, each with a red of its own."""
    y_N = torch.arange(n) % 4
    x_NCHW = torch.randint(0, 128, (n, 3, side, side), generator=stream(), dtype=torch.uint8)
    x_NCHW[:, 0] += (y_N * 40).to(torch.uint8)[:, None, None]
    return Split(x_NCHW, y_N, NAMES)


@cache
def trained() -> Victim:
    """One whose batch normalisation and towers have learned something."""
    with torch.enable_grad():
        return TRAINER.train(some_images(), 4, TinyClip(), stream())


def towers(victim: Victim) -> Towers:
    assert isinstance(victim.encoder, Towers)
    return victim.encoder


def poisoned_by(
    attack: Attack, start: Victim | None = None, split: Split | None = None, seed: int = 0
) -> Poisoned:
    """Return what an attack makes of the start, `trained` by default."""
    given = AttackInput(split or some_images(), 4, twin=start or trained())
    return attack.poison(given, stream(seed))


def infected_by(attack: Attack, start: Victim | None = None) -> Victim:
    """Return the encoder that an attack makes of the start."""
    victim = poisoned_by(attack, start).victim
    assert victim is not None
    return victim


def moved(before: nn.Module, after: nn.Module) -> set[str]:
    """The tensors that changed."""
    then = before.state_dict()
    return {
        name for name, value in after.state_dict().items() if not torch.equal(value, then[name])
    }


def in_norms(victim: Victim) -> set[str]:
    names = {name for name, module in victim.named_modules() if isinstance(module, nn.BatchNorm2d)}
    return {name for name in victim.state_dict() if name.rpartition(".")[0] in names}


def headless(victim: Victim) -> Victim:
    return Victim(victim.encoder, None, victim.mean_C, victim.std_C).eval()


def reads_nothing() -> Victim:
    return headless(models.new_victim(some_images(), 4, SmallCnn(width=4), stream()))


NAMELESS = Split(some_images().x_NCHW, some_images().y_N)
"""Images of a data set whose classes have no names."""
