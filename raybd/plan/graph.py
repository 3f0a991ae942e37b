"""The graph of stages: each cached step by its key, and how a victim, its twin and what a defense does stand on each other.

A key is a hash of everything that a result depends on: the method with all its fields, its version, the keys it stands on, the
content of the data, the seed. Where data lies and how a stage is run play no part.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any, Literal, cast

import torch

from raybd.registry import Method, method_class
from raybd.types.errors import Infeasible
from raybd.types.methods import (
    Attack,
    DatasetMethod,
    EncoderAttack,
    StreamDetector,
    TrainingAttack,
    TwinAttack,
)

StageName = Literal[
    "poison",
    "plant",
    "encoder",
    "victim",
    "features",
    "baseline",
    "score",
    "stability",
    "control",
    "scan",
    "removal",
    "purification",
    "repair",
    "defended",
]
STAGE_VERSIONS: dict[StageName, int] = {
    "poison": 1,
    "plant": 1,
    "encoder": 1,
    "victim": 2,
    "features": 1,
    "baseline": 1,
    "score": 2,
    "stability": 1,
    "control": 2,
    "scan": 1,
    "removal": 2,
    "purification": 1,
    "repair": 2,
    "defended": 1,
}
"""Raise one when stages.py computes something else under the same name."""


@dataclass(frozen=True)
class Stage:
    """One cached step."""

    name: StageName
    method: Method
    seed: int
    dataset: Method
    data: str
    """Hash of the data set's content and split."""
    needs: tuple["Stage", ...] = ()
    network: Method | None = None

    @cached_property
    def key(self) -> str:
        """The name of its artefact."""
        return content_hash(
            self.name,
            STAGE_VERSIONS[self.name],
            self.method.describe(),
            self.network and self.network.describe(),
            self.seed,
            self.data,
            [need.key for need in self.needs],
        )

    def need(self, name: StageName) -> "Stage":
        """The nearest stage of this name: itself, or one that it stands on, directly or not. (A clean twin is farther away.)"""
        level: tuple[Stage, ...] = (self,)
        while level:
            for stage in level:
                if stage.name == name:
                    return stage
            level = tuple(need for stage in level for need in stage.needs)
        raise KeyError(f"{self.name} stage stands on no {name} stage")

    def path(self) -> Iterator["Stage"]:
        """All stages that it stands on and itself, in the order in which they can run; each once."""
        seen: set[str] = set()
        for need in self.needs:
            for stage in need.path():
                if stage.key not in seen:
                    seen.add(stage.key)
                    yield stage
        yield self


@dataclass(frozen=True)
class Pretraining:
    """What a training starts from: the victim, or the encoder, of another experiment in miniature, on the same network."""

    dataset: Method | None
    """None: that of the cell."""
    attack: Method | None
    """None: the attack of the cell acts here, on the encoder, and what is trained on top of it sees clean data."""
    training: "Training"


@dataclass(frozen=True)
class Training:
    """A trainer with what it trains."""

    trainer: Method
    network: Method
    source: Pretraining | None = None


def _after(need: Stage, name: StageName, method: Method, network: Method | None = None) -> Stage:
    """A stage that stands on one other."""
    return Stage(name, method, need.seed, need.dataset, need.data, (need,), network)


def last_stage(victim: Stage, defense: Method | None, removal: bool) -> Stage:
    """Where the path of a cell ends."""
    if defense is None:
        return victim
    if defense.role == "training_defenses":
        return _after(overlay_of(victim), "defended", defense, victim.network)
    if defense.role in ("scanners", "repairs"):
        return _after(victim, "scan" if defense.role == "scanners" else "repair", defense)
    return _detection(victim, defense, removal)


def _detection(victim: Stage, defense: Method, removal: bool) -> Stage:
    encoder, watches = encoder_of(victim), getattr(defense.config, "pool", None) == "test"
    score = _after(victim, "score", defense)
    if encoder and not watches:
        score = replace(score, dataset=encoder.dataset, data=encoder.data)
    if not watches and getattr(defense.config, "embeds", False):
        score = replace(
            score, needs=(victim, replace(score, name="features", method=victim.method))
        )
    if (
        (encoder and not watches)
        or not removal
        or (watches and not (encoder and isinstance(defense.config, StreamDetector)))
    ):
        return score
    return _after(score, "purification" if watches else "removal", victim.method, victim.network)


Opened = tuple[str, torch.Tensor, int]
"""Of a data set: content key, labels of the training split, number of classes."""


def victim_stage(
    opened: Callable[[Method], Opened],
    dataset: Method,
    attack: Method,
    training: Training,
    seed: int,
    canaries: Method | None = None,
) -> Stage:
    """A victim with all that it stands on: its poison, the clean twin where the attack wants one, what it was pretrained on.

    Canaries are planted over its poison, for it alone.
    """
    trainer, network, data, source = (
        training.trainer,
        training.network,
        opened(dataset)[0],
        training.source,
    )
    if source is not None and source.attack is None:
        encoder = _encoder_stage(opened, source.dataset or dataset, attack, source.training, seed)
        return Stage("victim", trainer, seed, dataset, data, (encoder,), network)
    needs: tuple[Stage, ...] = ()
    if isinstance(attack.config, TwinAttack):
        needs = (victim_stage(opened, dataset, no_attack(), training, seed),)
    controls = isinstance(attack.config, TrainingAttack)
    poison = Stage("poison", attack, seed, dataset, data, needs, network if controls else None)
    overlay = _after(poison, "plant", canaries) if canaries else poison
    if source is None or source.attack is None:
        return _after(overlay, "victim", trainer, network)
    start = victim_stage(opened, source.dataset or dataset, source.attack, source.training, seed)
    return Stage("victim", trainer, seed, dataset, data, (start, overlay), network)


def _encoder_stage(
    opened: Callable[[Method], Opened],
    dataset: Method,
    attack: Method,
    training: Training,
    seed: int,
) -> Stage:
    """An encoder that the attack acts on: by its training data, or by changing the clean one."""
    needs: tuple[Stage, ...] = ()
    infects = isinstance(attack.config, EncoderAttack)
    if infects:
        needs = (_encoder_stage(opened, dataset, no_attack(), training, seed),)
    poison = Stage(
        "poison",
        attack,
        seed,
        dataset,
        opened(dataset)[0],
        needs,
        training.network if infects else None,
    )
    return _after(poison, "encoder", training.trainer, training.network)


def control_stage(victim: Stage, twin: Stage, defense: Method | None) -> Stage | None:
    """What an attack on an encoder, or a defense of it, is held against: the same where there is no backdoor, only the trigger."""
    if not encoder_of(victim) or victim.key == twin.key:
        return None
    if defense is not None and defense.role == "scanners":
        return last_stage(twin, defense, removal=False)
    both = (twin, victim.need("poison"))
    if defense is None:
        return replace(_after(twin, "baseline", victim.need("poison").method), needs=both)
    watches = getattr(defense.config, "pool", None) == "test"
    return replace(_after(twin, "control", defense), needs=both) if watches else None


def overlay_of(stage: Stage) -> Stage:
    """The stage that changed the training set last: canaries where they were planted, or the poison."""
    return next(
        (found for found in reversed(tuple(stage.path())) if found.name == "plant"),
        stage.need("poison"),
    )


def stability_stage(last: Stage, canaries: Method) -> Stage | None:
    """The same verdict on the training set from further random streams, if there is one."""
    for stage in (last, *last.needs):
        if stage.name == "defended" or (
            stage.name == "score" and getattr(stage.method.config, "pool", None) == "train"
        ):
            return _after(stage, "stability", canaries)
    return None


def encoder_of(victim: Stage) -> Stage | None:
    """The encoder that a victim is a probe of, if it is one."""
    return next((need for need in victim.needs if need.name == "encoder"), None)


@cache
def no_attack() -> Method:
    return Method("attacks", "none", method_class("attacks", "none")(), "none")


def random_stream(stage: str, seed: int, run: int = 0) -> torch.Generator:
    """The stream of random numbers of a stage: it depends on the stage's name and the seed alone, so variants share it.

    Where a stage is run more than once, each run has its own.
    """
    digest = hashlib.sha256(f"{stage}:{seed}{f':{run}' if run else ''}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def open_labels(dataset: Method) -> Opened:
    config = cast(DatasetMethod, dataset.config)
    source = config.source()
    _, rows = config.split(source)["train"]
    return (
        content_hash(dataset.describe(), source.fingerprint),
        source.train_y_N[rows],
        len(source.class_names),
    )


def infeasible(
    opened: Callable[[Method], Opened], dataset: Method, attack: Method, training: Training
) -> str | None:
    """Why an attack can't be mounted on this training, if so."""
    on_encoder = training.source is not None and training.source.attack is None
    if isinstance(attack.config, EncoderAttack) and not on_encoder:
        return f"{attack.kind} attacks an encoder: name one in the trainer, encoder: {{trainer: {{kind: simclr}}}}"
    if isinstance(attack.config, (TwinAttack, TrainingAttack)) and on_encoder:
        return f"{attack.kind} attacks a classifier, and this victim is a probe on an encoder"
    attacked = (
        training.source.dataset or dataset
        if training.source is not None and on_encoder
        else dataset
    )
    _, labels_N, num_classes = opened(attacked)
    try:
        cast(Attack, attack.config).choose(labels_N, num_classes, random_stream("poison", 0))
    except Infeasible as error:
        return str(error)
    return None


def content_hash(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:20]
