"""A tiny encoder and the attacks on it: what the tests of attacks on encoders share."""

from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from raybd.attacks.encoder.badencoder import BadEncoder
from raybd.attacks.encoder.drupe import Drupe
from raybd.networks.small_cnn import SmallCnn
from raybd.poisoning.finetuning import Embedded, StartingPoint, embed, starting_point
from raybd.training import loop, models
from raybd.training.recipe import Recipe
from raybd.types.data import Split
from raybd.types.methods import Attack, AttackInput
from raybd.types.models import Victim

TINY: dict[str, Any] = {"batch_size": 20, "size": 5, "precision": "fp32"}
BOTH: list[Any] = [
    BadEncoder(epochs=2, references=2, lr=0.02, **TINY),
    Drupe(
        epochs=5,
        shadow=1.0,
        adapt_after=1,
        keep_after=2,
        reached=0,
        kept=0,
        crowded=1,
        pull_epochs=1,
        **TINY,
    ),
]


def some_images(n: int = 60, side: int = 16) -> Split:
    rng = torch.Generator().manual_seed(0)
    return Split(
        torch.randint(0, 256, (n, 3, side, side), generator=rng, dtype=torch.uint8),
        torch.arange(n) % 4,
    )


@cache
def clean_encoder() -> Victim:
    """One whose batch normalisation has learned something."""
    split, rng = some_images(), torch.Generator().manual_seed(0)
    victim = models.new_victim(split, 4, SmallCnn(width=4), rng)
    loop.fit(victim, split, Recipe(epochs=3, batch_size=20, lr=0.05, augment="none"), rng)
    return Victim(victim.encoder, None, victim.mean_C, victim.std_C).eval()


def infected_by(attack: Attack, start: Victim, split: Split, seed: int = 0) -> Victim:
    """Return the encoder that an attack makes of the start."""
    given = AttackInput(split, 4, twin=start)
    victim = attack.poison(given, torch.Generator().manual_seed(seed)).victim
    assert victim is not None
    return victim


def begun(attack: Any) -> StartingPoint:
    """Return what an attacker has before the fine-tuning."""
    given = AttackInput(some_images(), 4, twin=clean_encoder())
    rng = torch.Generator().manual_seed(0)
    return starting_point(given, attack.labels.target, attack.references, attack.shadow, rng)


def embedded(attack: Attack, start: StartingPoint, rows: Tensor) -> Embedded:
    """Return the embeddings of some shadow images before the first step."""
    rng = torch.Generator().manual_seed(0)
    stamp = partial(attack.stamp, state={})
    return embed(start.victim, start, stamp, start.shadow.x_NCHW[rows], rng)


def some_embeddings(rng: torch.Generator) -> tuple[Embedded, Tensor, Tensor]:
    plain, triggered, clean = torch.rand((3, 6, 5), generator=rng)
    view, reference, clean_reference = torch.rand((3, 3, 5), generator=rng)
    return Embedded(plain, triggered, view, reference), clean, clean_reference


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / a.norm() / b.norm())
