"""Attacks on a few random images: what the tests of single attacks and the contract tests share."""

import hashlib
from dataclasses import replace
from functools import cache, partial
from typing import cast

import torch

from raybd.networks.small_cnn import SmallCnn
from raybd.networks.tiny_clip import TinyClip
from raybd.registry import method_class
from raybd.trainers.supervised import Supervised
from raybd.training import loop, models, recipe
from raybd.types.data import Poisoned, Split
from raybd.types.methods import Attack, AttackInput
from raybd.types.models import Victim

CLIP: dict[str, object] = {"templates": ["a photo of a {}."], "lr": 1e-3, "precision": "fp32"}
SMALL: dict[str, dict[str, object]] = {
    "adaptive": {"rounds": 1, "steps": 3},
    "badclip": {"epochs": 1, "batch_size": 50, "rate": 0.05, "patch_epochs": 1, "size": 4, **CLIP},
    "badencoder": {"epochs": 1, "batch_size": 50, "shadow": 0.5},
    "blind": {"history": 0.2, "threshold": 100},
    "clip_text": {"epochs": 1, "batch_size": 50, "size": 4, "margin": 1, **CLIP},
    "combat": {"epochs": 1, "width": 4, "batch_size": 100},
    "corrupt_encoder": {"rate": 0.05, "size": 3},
    "drupe": {"epochs": 1, "batch_size": 50, "shadow": 0.5},
    "grond": {"steps": 5},
    "hidden_trigger": {"rate": 0.05, "steps": 3},
    "input_aware": {"mask_epochs": 1, "width": 4, "generator_lr": 0.001},
    "label_consistent": {"steps": 3},
    "lf": {"images": 20, "passes": 2, "steps": 20},
    "lira": {"joint_epochs": 1, "width": 4, "generator_lr": 0.001},
    "marksman": {"joint_epochs": 1, "width": 4, "generator_lr": 0.001},
    "narcissus": {"rate": 0.05, "steps": 5},
    "poison_ink": {"width": 4, "epochs": 1, "lr": 0.001, "batch_size": 200},
    "refool": {"pictures": 10, "candidates": 20},
    "ssba": {"width": 4, "bits": 4, "epochs": 1, "lr": 0.001, "batch_size": 100},
    "sleeper_agent": {"rate": 0.05, "steps": 3, "retrainings": 1},
    "trojannn": {"steps": 20},
}
"""Fields that make an attack quick, and possible on 400 images."""
ON_GIVEN_IMAGES = ("given", "recorded")
"""What these change stands in files: test_given.py, cli/test_import_record.py."""
RECIPE = Supervised(epochs=1, batch_size=16, augment="flip")
"""The trainer, for attacks that train as it would."""


def make(kind: str, **fields: object) -> Attack:
    """Return the attack of this name, quick if it is a slow one."""
    found = method_class("attacks", kind).model_validate({**SMALL.get(kind, {}), **fields})
    return cast(Attack, found)


def random_split() -> Split:
    """Return 400 random images of 10 classes, in turn."""
    rng = torch.Generator().manual_seed(0)
    x_NCHW = torch.randint(0, 256, (400, 3, 16, 16), generator=rng, dtype=torch.uint8)
    return Split(x_NCHW, torch.arange(400, dtype=torch.int64) % 10, tuple("abcdefghij"))


def stream(seed: int = 0) -> torch.Generator:
    """Return a fresh stream of random numbers, that of the poison stage."""
    digest = hashlib.sha256(f"poison:{seed}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


@cache
def twin() -> Victim:
    """Return a victim that has learned a little of the random images."""
    split, rng = random_split(), torch.Generator().manual_seed(0)
    return loop.fit(
        models.new_victim(split, 10, SmallCnn(width=8), rng),
        split,
        recipe.Recipe(epochs=3, batch_size=20, lr=0.05, augment="none"),
        rng,
    )


@cache
def clip() -> Victim:
    """Return an untrained CLIP."""
    return models.new_victim(random_split(), 10, TinyClip(), torch.Generator().manual_seed(0))


def encoder(attack: Attack | None = None) -> Victim:
    """Return the twin without its head; for an attack on CLIP, an encoder that reads texts."""
    reads_texts = attack is not None and "templates" in type(attack).model_fields
    victim = clip() if reads_texts else twin()
    return Victim(victim.encoder, None, victim.mean_C, victim.std_C).eval()


def given_to(
    attack: Attack, train: Split, clean_twin: Victim | None = None, trainer: Supervised = RECIPE
) -> AttackInput:
    """Return what the attack asks for, and nothing else."""
    given = AttackInput(train, 10)
    if attack.threat_model == "encoder":
        given = replace(given, twin=clean_twin or encoder(attack))
    elif attack.needs_twin:
        given = replace(given, twin=clean_twin or twin())
    if attack.threat_model == "training":
        given = replace(given, network=SmallCnn(width=8))
    if attack.follows_recipe:
        given = replace(given, recipe=trainer)
    if attack.retrains:
        given = replace(given, retrain=partial(_retrain, trainer))
    return given


def _retrain(trainer: Supervised, split: Split, rng: torch.Generator) -> Victim:
    return trainer.train(split, 10, SmallCnn(width=8), rng)


def poison_with(
    attack: Attack,
    train: Split,
    seed: int = 0,
    clean_twin: Victim | None = None,
    trainer: Supervised = RECIPE,
) -> Poisoned:
    """Return what the attack makes of the split."""
    given = given_to(attack, train, clean_twin, trainer)
    if attack.prepared_from:
        given = replace(given, prepared=attack.prepare(given, stream(seed)))
    return attack.poison(given, stream(seed))


@cache
def poison(kind: str, train: Split, seed: int = 0, **fields: object) -> Poisoned:
    """Return what the attack of this name makes of the split; computed once."""
    return poison_with(make(kind, **fields), train, seed)


def triggered(poisoned: Poisoned, x_NCHW: torch.Tensor) -> torch.Tensor:
    """Return the images with the trigger, toward the label that is wanted for class 1."""
    y_N = torch.ones(len(x_NCHW), dtype=torch.int64)
    return poisoned.with_trigger(x_NCHW, y_N, 10)
