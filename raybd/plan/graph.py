"""The graph of a victim: its poison, its clean twin, what it starts from; and its feasibility."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any, cast

import torch
from torch import Tensor, nn

from raybd.cells.data import data_key
from raybd.cells.stage import Stage, VictimStage, random_stream
from raybd.reading.notes import say_once
from raybd.registry import Method, method_class
from raybd.stages.encoder import Encoder
from raybd.stages.plant import Plant
from raybd.stages.poison import Poison
from raybd.stages.prepare import Prepare
from raybd.stages.victim import Victim
from raybd.types.config import Precision
from raybd.types.errors import Infeasible
from raybd.types.methods import (
    Attack,
    DatasetMethod,
    Defense,
    Detector,
    Trainer,
    TrainingDefense,
)
from raybd.types.models import Network

# The layers that a defense asks about do not depend on it, and a plan opens no image.
PLAN_IMAGE_SIZE = 64
"""Side of the images that networks are built for when a plan asks whether a defense applies."""


@dataclass(frozen=True)
class Opened:
    """What a plan knows of a data set: no images."""

    key: str
    """Hash of content and split."""
    labels_N: Tensor
    """Labels of the training split."""
    num_classes: int
    trusted: int = 0
    """Number of trusted images; a plan asks whether they are enough."""
    flagged: bool = False
    """Whether it says which training images came poisoned."""


OpenData = Callable[[Method], Opened]


@dataclass(frozen=True)
class Pretraining:
    """What a training starts from: the victim, or the encoder, of another training."""

    dataset: Method | None
    """None: that of the cell."""
    attack: Method | None
    """None: the cell's attack acts here, on the encoder; what is trained on it sees clean data."""
    training: "Training"


@dataclass(frozen=True)
class Training:
    """A trainer with what it trains."""

    trainer: Method
    network: Method
    source: Pretraining | None = None

    @property
    def on_encoder(self) -> bool:
        """Whether it trains a probe on an encoder that the attack acts on."""
        return self.source is not None and self.source.attack is None

    def pinned(self, precision: Precision) -> "Training":
        """Return it with a precision for itself and for what it starts from."""
        source = self.source
        if source is not None:
            attack = source.attack and replace(source.attack, precision=precision)
            inner = source.training.pinned(precision)
            source = replace(source, attack=attack, training=inner)
        return replace(self, trainer=replace(self.trainer, precision=precision), source=source)


def victim_stage(
    opened: OpenData,
    dataset: Method,
    attack: Method,
    training: Training,
    seed: int,
    canaries: Method | None = None,
) -> Victim:
    """Return a victim with everything that it depends on.

    Canaries are planted over its poison, for this victim alone.
    """
    data = opened(dataset).key
    common: dict[str, Any] = {
        "method": training.trainer,
        "seed": seed,
        "dataset": dataset,
        "data": data,
        "network": training.network,
    }
    source = training.source
    # A probe: the poison is in its encoder, and the probe itself is trained on clean data.
    if source is not None and source.attack is None:
        encoder = _encoder_stage(opened, source.dataset or dataset, attack, source.training, seed)
        return Victim(**common, encoder=encoder)

    overlay: Stage = _poison_stage(opened, dataset, attack, training, seed)
    if canaries is not None:
        overlay = Plant(
            method=canaries, seed=seed, dataset=dataset, data=data, poison=cast(Poison, overlay)
        )
    if source is None or source.attack is None:
        return Victim(**common, overlay=overlay)
    start = victim_stage(opened, source.dataset or dataset, source.attack, source.training, seed)
    return Victim(**common, source=start, overlay=overlay)


def _poison_stage(
    opened: OpenData, dataset: Method, attack: Method, training: Training, seed: int
) -> Poison:
    """The poison in the training set of a classifier."""
    config = cast(Attack, attack.config)
    twin = victim_stage(opened, dataset, no_attack(), training, seed) if config.needs_twin else None
    controls = config.threat_model == "training"
    uses_recipe = config.follows_recipe or config.retrains
    return Poison(
        method=attack,
        seed=seed,
        dataset=dataset,
        data=opened(dataset).key,
        # Only what the poison depends on: victims of other networks and trainers then share it.
        network=training.network if controls or uses_recipe else None,
        twin=twin,
        prepared=_prepare_stage(opened, dataset, attack, twin, seed),
        trainer=training.trainer if uses_recipe else None,
        side_data=opened(attack.side_data).key if attack.side_data is not None else None,
    )


def _prepare_stage(
    opened: OpenData, dataset: Method, attack: Method, twin: VictimStage | None, seed: int
) -> Prepare | None:
    if not cast(Attack, attack.config).prepared_from:
        return None
    data = opened(dataset).key
    return Prepare(method=attack, seed=seed, dataset=dataset, data=data, twin=twin)


def _encoder_stage(
    opened: OpenData, dataset: Method, attack: Method, training: Training, seed: int
) -> Encoder:
    """An encoder that the attack acts on: by its training data, or by changing the clean one."""
    config = cast(Attack, attack.config)
    data = opened(dataset).key
    # An attack on encoders starts from the clean one; an attack on data needs none.
    twin = None
    if config.threat_model == "encoder":
        twin = _encoder_stage(opened, dataset, no_attack(), training, seed)
    poison = Poison(
        method=attack,
        seed=seed,
        dataset=dataset,
        data=data,
        network=training.network if twin is not None else None,
        twin=twin,
        side_data=opened(attack.side_data).key if attack.side_data is not None else None,
    )
    return Encoder(
        method=training.trainer,
        seed=seed,
        dataset=dataset,
        data=data,
        network=training.network,
        poison=poison,
    )


@cache
def no_attack() -> Method:
    """Return the benign control."""
    return Method("attacks", "none", method_class("attacks", "none")(), "none")


def open_labels(dataset: Method) -> Opened:
    """Read the labels and the content hash of a data set; no image is decoded."""
    config = cast(DatasetMethod, dataset.config)
    source = config.source()
    for note in source.notes:
        say_once(f"{dataset.name}: {note}")
    parts = config.split(source)
    _, rows = parts["train"]
    # Both: the same files, split in another way, are another data set.
    return Opened(
        data_key(dataset, source.fingerprint),
        source.train_y_N[rows],
        len(source.class_names),
        len(parts["clean"][1]),
        source.role_N is not None,
    )


def known_or_opened(known: dict[Method, Opened]) -> OpenData:
    """Return what opens each data set once, and keeps in `known` what it knows of it."""

    def opened(dataset: Method) -> Opened:
        if dataset not in known:
            known[dataset] = open_labels(dataset)
        return known[dataset]

    return opened


def with_trusted_data(opened: OpenData, defense: Method | None) -> Method | None:
    """Return a defense whose description holds the content of its own trusted data set, if any."""
    if defense is None or defense.trusted is None or defense.trusted.dataset is None:
        return defense
    data = opened(defense.trusted.dataset).key
    return replace(defense, trusted=replace(defense.trusted, data=data))


def with_trainer(trainer: Method, defense: Method | None) -> Method | None:
    """Return a defense with what it takes over from the victim's trainer, like augmentation."""
    if defense is None or not isinstance(defense.config, Defense):
        return defense
    config = defense.config.following(trainer.config)
    scan = with_trainer(trainer, defense.scan)
    if config is defense.config and scan is defense.scan:
        return defense
    return replace(defense, config=config, scan=scan)


def infeasible_attack(
    opened: OpenData, dataset: Method, attack: Method, training: Training
) -> str | None:
    """Return why an attack cannot be mounted on this training, if so."""
    config = cast(Attack, attack.config)
    if reason := _training_misfit(attack, training):
        return reason

    # The attack poisons what its victim or encoder is trained on, which may be another data set.
    attacked = opened(dataset)
    if training.on_encoder and training.source is not None and training.source.dataset is not None:
        attacked = opened(training.source.dataset)
    if reason := _flags_misfit(config, attacked, training):
        return f"{attack.kind} on {dataset.name}: {reason}"
    try:
        # Any seed will do: whether there are enough images depends on the labels alone.
        config.choose(attacked.labels_N, attacked.num_classes, random_stream("poison", 0))
    except Infeasible as error:
        return str(error)
    return None


def _training_misfit(attack: Method, training: Training) -> str | None:
    """Return why an attack does not fit the way in which its victim is trained, if so."""
    config = cast(Attack, attack.config)
    if config.threat_model == "encoder" and not training.on_encoder:
        return (
            f"{attack.kind} attacks an encoder: name one in the trainer, "
            "encoder: {trainer: {kind: simclr}}"
        )
    needs_classifier = config.needs_twin or config.threat_model == "training"
    if needs_classifier and training.on_encoder:
        return f"{attack.kind} attacks a classifier, and this victim is a probe on an encoder"
    if (config.needs_twin or config.retrains) and not cast(Trainer, training.trainer.config).trains:
        return (
            f"{attack.kind} needs another victim of the same recipe, and {training.trainer.name} "
            "takes one that exists"
        )
    reason = config.cannot_train_as(training.trainer.config)
    return None if reason is None else f"{attack.kind} under {training.trainer.name}: {reason}"


def _flags_misfit(attack: Attack, attacked: Opened, training: Training) -> str | None:
    """Return why an attack does not fit the flags of poison of a data set, if so."""
    if attack.reads_flags and training.on_encoder:
        return "its cells are compared with a clean encoder, and there is no clean training set"
    if attack.reads_flags and not attacked.flagged:
        return "the data set names no flags: `poison_list`, or `poison_column`"
    # What came poisoned would count as clean.
    if attacked.flagged and not attack.reads_flags:
        return "the training set came poisoned: take the attack `given`, or name no flags"
    return None


def needs_stamp(attack: Method, defense: Method | None) -> str | None:
    """Return that a detector needs triggered images, and that the attack stamps none, if so."""
    if defense is None or not cast(Attack, attack.config).chooses_test:
        return None
    if defense.trusted is not None and defense.trusted.poisoned > 0:
        return f"no trusted image of {defense.name} can wear a trigger: {attack.kind} stamps none"
    # The same images would stand in the stream as clean and as triggered ones.
    if isinstance(defense.config, Detector) and defense.config.scored_pool == "test":
        return f"{defense.name} scores inputs with a trigger, and {attack.kind} stamps none"
    return None


def nothing_to_find(attack: Method, defense: Method | None) -> str | None:
    """Return that a defense looks for poison in a training set that has none, if so."""
    if cast(Attack, attack.config).poisons_training_set or defense is None:
        return None
    config = defense.config
    trains = isinstance(config, TrainingDefense)
    if trains or (isinstance(config, Detector) and config.scored_pool == "train"):
        return f"{attack.kind} changes no training image, so that {defense.name} has none to find"
    return None


def too_few_trusted(opened: OpenData, dataset: Method, defense: Method | None) -> str | None:
    """Return that a defense needs more trusted images than a data set keeps for it, if so."""
    if defense is None or not isinstance(defense.config, Defense):
        return None
    # Images of a data set of their own are as many as that has.
    if defense.trusted is not None and defense.trusted.dataset is not None:
        return None
    fewest = defense.config.fewest_trusted
    if opened(dataset).trusted >= fewest:
        return None
    return (
        f"{defense.name} needs {fewest} trusted images: set `clean` of {dataset.name} to {fewest} "
        "or more"
    )


def infeasible_defense(defense: Method | None, training: Training, num_classes: int) -> str | None:
    """Return why a defense cannot be applied to victims of this training, if so."""
    if defense is None or not isinstance(defense.config, Defense):
        return None
    # A repair can do no more than the scan that it stands on.
    if reason := infeasible_defense(defense.scan, training, num_classes):
        return reason
    if type(defense.config).cannot is Defense.cannot:
        return None  # it applies to every network, so that none needs to be built
    # A plan asks about the structure, and must not download weights.
    network = cast(Network, training.network.config).without_pretraining()
    encoder = _encoder(network, num_classes)
    reason = defense.config.cannot(encoder, num_classes)
    return None if reason is None else f"{defense.kind} on {training.network.name}: {reason}"


@lru_cache(maxsize=8)
def _encoder(network: Network, num_classes: int) -> nn.Module:
    """Return the encoder without its weights, for questions about its structure."""
    # On the meta device a network takes neither time nor memory; torch's stream is put back.
    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):
                return network.build(num_classes, PLAN_IMAGE_SIZE)[0]
        # A few models of other libraries compute with tensors while they are built (regnet).
        except NotImplementedError:
            return network.build(num_classes, PLAN_IMAGE_SIZE)[0]
