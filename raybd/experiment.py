"""Experiment -> cells -> stage keys: what is to be done, and by what name each part of it is known.

A key is a hash of everything that a result depends on: the method with all its fields, its version, the keys it stands on, the
content of the data, the seed. Where data lies and how a stage is run play no part.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import product
from typing import Any, Literal, cast

import torch
from pydantic import Field

from raybd.registry import Method, method_class
from raybd.types import Attack, Config, DatasetMethod, EncoderAttack, Infeasible, TrainingAttack, TwinAttack

StageName = Literal["poison", "encoder", "victim", "score", "control", "removal", "repair", "defended"]
STAGE_VERSIONS: dict[StageName, int] = {
    "poison": 1,
    "encoder": 1,
    "victim": 2,
    "score": 1,
    "control": 1,
    "removal": 2,
    "repair": 2,
    "defended": 1,
}
"""Raise one when stages.py computes something else under the same name."""


class Resources(Config):
    """How a stage runs; no part of what it computes."""

    workers: int = Field(1, ge=1)
    """Processes that share each stage; 2 or more: Ray Train."""
    cpus_per_worker: float = Field(1, ge=1)
    """CPUs, and torch threads, of each."""
    gpus_per_worker: float | None = Field(None, ge=0)
    """GPUs of each, fractions allowed; unset: one where the cluster has any."""
    checkpoint_seconds: float = Field(30, ge=0)
    """Time between the checkpoints of a training: what a dead worker can lose, beside the epoch that was running."""


class AllResources(Resources):
    """Resources for all roles, and where a role needs others."""

    trainers: Resources | None = None
    """For victims, training that is a defense or an attack, and retraining after removal."""
    detectors: Resources | None = None
    """For scoring."""
    repairs: Resources | None = None
    """For repairs."""


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
        return _hash(
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
class Cell:
    """dataset x attack x trainer x defense x seed: one row of the results."""

    experiment: str
    dataset: Method
    attack: Method
    trainer: Method
    network: Method
    defense: Method | None
    seed: int
    victim: Stage
    """The undefended victim."""
    last: Stage
    """Where its path ends: the victim itself, or what the defense does."""
    infeasible: str | None = None
    control: Stage | None = None
    """The same detector on the clean twin, held against the same triggered inputs."""

    @property
    def defense_name(self) -> str:
        """As in the tables; `none` is the undefended victim."""
        return self.defense.name if self.defense else "none"

    @cached_property
    def id(self) -> str:
        """The name of its files."""
        names = [method.name for method in (self.dataset, self.attack, self.trainer, self.network)]
        return _hash(self.experiment, names, self.defense_name, self.last.key)[:16]

    def stages(self) -> tuple[Stage, ...]:
        """Its path through the graph, in order; each stage once."""
        return tuple({stage.key: stage for end in (self.victim, self.last, self.control) if end for stage in end.path()}.values())

    def __str__(self) -> str:
        parts = (self.dataset, self.attack, self.trainer)
        return " x ".join([*(method.name for method in parts), self.defense_name, f"seed {self.seed}"])


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


@dataclass(frozen=True)
class Experiment:
    """What a YAML file asks for, with every default filled in."""

    name: str
    seeds: tuple[int, ...]
    datasets: tuple[Method, ...]
    attacks: tuple[Method, ...]
    trainings: tuple[Training, ...]
    """How undefended victims are trained."""
    defenses: tuple[Method, ...]
    """Detectors, repairs, and trainers that are defenses: these train on the network of the victim that they stand beside."""
    removal: bool
    """After each detector of the training set: drop what it flags, train again, measure."""
    resources: AllResources

    def cells(self) -> tuple[Cell, ...]:
        """The product of the lists. Opens the data sets (labels and content hash, no images) and finds what is infeasible."""
        cells, opened = [], cache(_open)
        for dataset in self.datasets:
            for attack, training in product(self.attacks, self.trainings):
                infeasible = _infeasible(opened, dataset, attack, training)
                for seed in self.seeds:
                    victim = _victim_stage(opened, dataset, attack, training, seed)
                    twin = _victim_stage(opened, dataset, _no_attack(), training, seed)
                    cells += [
                        Cell(
                            experiment=self.name,
                            dataset=dataset,
                            attack=attack,
                            trainer=training.trainer,
                            network=training.network,
                            defense=defense,
                            seed=seed,
                            victim=victim,
                            last=self._last_stage(victim, defense),
                            infeasible=infeasible,
                            control=_control(victim, twin, defense),
                        )
                        for defense in (None, *self.defenses)
                        if not (defense and defense.role == "trainers" and _encoder_of(victim))
                    ]
        return tuple(cells)

    def resources_of(self, stage: Stage) -> Resources:
        """How a stage of this experiment runs."""
        special = {
            "poison": self.resources.trainers,
            "encoder": self.resources.trainers,
            "victim": self.resources.trainers,
            "defended": self.resources.trainers,
            "removal": self.resources.trainers,
            "score": self.resources.detectors,
            "control": self.resources.detectors,
            "repair": self.resources.repairs,
        }.get(stage.name)
        if stage.name == "poison" and not stage.needs and stage.network is None:
            return Resources(gpus_per_worker=0)
        return special or Resources(**{name: getattr(self.resources, name) for name in Resources.model_fields})

    def describe(self) -> dict[str, Any]:
        """As an experiment file, resolved; paths are kept."""

        def entry(method: Method) -> dict[str, Any]:
            fields = method.config.model_dump(mode="json")
            hidden = {name: getattr(method.config, name) for name, f in type(method.config).model_fields.items() if f.exclude}
            label = {"name": method.name} if method.name != method.kind else {}
            trusted = {}
            if method.trusted is not None:
                own = {"dataset": entry(method.trusted.dataset)} if method.trusted.dataset else {}
                trusted = {"trusted": {**own, "poisoned": method.trusted.poisoned}}
            return {**trusted, "kind": method.kind, **label, **{k: str(v) for k, v in hidden.items() if v is not None}, **fields}

        def trained(training: Training) -> dict[str, Any]:
            described = {**entry(training.trainer), "network": entry(training.network)}
            source = training.source
            if source is None:
                return described
            inner = trained(source.training)
            inner.pop("network")
            named = {"dataset": source.dataset, "attack": source.attack}
            start = {**{role: entry(method) for role, method in named.items() if method}, "trainer": inner}
            return {**described, "encoder" if source.attack is None else "source": start}

        return {
            "name": self.name,
            "seeds": list(self.seeds),
            "datasets": [entry(method) for method in self.datasets],
            "attacks": [entry(method) for method in self.attacks],
            "trainers": [*map(trained, self.trainings), *(entry(method) for method in self.defenses if method.role == "trainers")],
            "detectors": [entry(method) for method in self.defenses if method.role == "detectors"],
            "repairs": [entry(method) for method in self.defenses if method.role == "repairs"],
            "removal": self.removal,
            "resources": self.resources.model_dump(mode="json", exclude_none=True),
        }

    def _last_stage(self, victim: Stage, defense: Method | None) -> Stage:
        if defense is None:
            return victim
        if defense.role == "repairs":
            return _after(victim, "repair", defense)
        if defense.role == "trainers":
            return _after(victim.need("poison"), "defended", defense, victim.network)
        encoder = _encoder_of(victim)
        if encoder and getattr(defense.config, "pool", None) == "train":
            return replace(_after(victim, "score", defense), dataset=encoder.dataset, data=encoder.data)
        score = _after(victim, "score", defense)
        if self.removal and getattr(defense.config, "pool", None) == "train":
            return _after(score, "removal", victim.method, victim.network)
        return score


def _after(need: Stage, name: StageName, method: Method, network: Method | None = None) -> Stage:
    """A stage that stands on one other."""
    return Stage(name, method, need.seed, need.dataset, need.data, (need,), network)


_Opened = tuple[str, torch.Tensor, int]
"""Of a data set: content key, labels of the training split, number of classes."""


def _victim_stage(opened: Callable[[Method], _Opened], dataset: Method, attack: Method, training: Training, seed: int) -> Stage:
    """A victim with all that it stands on: its poison, the clean twin where the attack wants one, what it was pretrained on."""
    trainer, network, data, source = training.trainer, training.network, opened(dataset)[0], training.source
    if source is not None and source.attack is None:
        encoder = _encoder_stage(opened, source.dataset or dataset, attack, source.training, seed)
        return Stage("victim", trainer, seed, dataset, data, (encoder,), network)
    needs: tuple[Stage, ...] = ()
    if isinstance(attack.config, TwinAttack):
        needs = (_victim_stage(opened, dataset, _no_attack(), training, seed),)
    controls = isinstance(attack.config, TrainingAttack)
    poison = Stage("poison", attack, seed, dataset, data, needs, network if controls else None)
    if source is None or source.attack is None:
        return _after(poison, "victim", trainer, network)
    start = _victim_stage(opened, source.dataset or dataset, source.attack, source.training, seed)
    return Stage("victim", trainer, seed, dataset, data, (start, poison), network)


def _encoder_stage(opened: Callable[[Method], _Opened], dataset: Method, attack: Method, training: Training, seed: int) -> Stage:
    """An encoder that the attack acts on: by its training data, or by changing the clean one."""
    needs: tuple[Stage, ...] = ()
    infects = isinstance(attack.config, EncoderAttack)
    if infects:
        needs = (_encoder_stage(opened, dataset, _no_attack(), training, seed),)
    poison = Stage("poison", attack, seed, dataset, opened(dataset)[0], needs, training.network if infects else None)
    return _after(poison, "encoder", training.trainer, training.network)


def _control(victim: Stage, twin: Stage, defense: Method | None) -> Stage | None:
    """A detector of test inputs on an encoder has to find more than it finds when there is no backdoor, only the trigger."""
    watches = defense is not None and getattr(defense.config, "pool", None) == "test"
    if defense is None or not watches or not _encoder_of(victim) or victim.key == twin.key:
        return None
    return replace(_after(twin, "control", defense), needs=(twin, victim.need("poison")))


def _encoder_of(victim: Stage) -> Stage | None:
    """The encoder that a victim is a probe of, if it is one."""
    return next((need for need in victim.needs if need.name == "encoder"), None)


@cache
def _no_attack() -> Method:
    return Method("attacks", "none", method_class("attacks", "none")(), "none")


def random_stream(stage: str, seed: int) -> torch.Generator:
    """The stream of random numbers of a stage: it depends on the stage's name and the seed alone, so variants share it."""
    digest = hashlib.sha256(f"{stage}:{seed}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def _open(dataset: Method) -> _Opened:
    config = cast(DatasetMethod, dataset.config)
    source = config.source()
    _, rows = config.split(source)["train"]
    return _hash(dataset.describe(), source.fingerprint), source.train_y_N[rows], len(source.class_names)


def _infeasible(opened: Callable[[Method], _Opened], dataset: Method, attack: Method, training: Training) -> str | None:
    """Why an attack can't be mounted on this training, if so."""
    on_encoder = training.source is not None and training.source.attack is None
    if isinstance(attack.config, EncoderAttack) and not on_encoder:
        return f"{attack.kind} attacks an encoder: name one in the trainer, encoder: {{trainer: {{kind: simclr}}}}"
    if isinstance(attack.config, (TwinAttack, TrainingAttack)) and on_encoder:
        return f"{attack.kind} attacks a classifier, and this victim is a probe on an encoder"
    attacked = training.source.dataset or dataset if training.source is not None and on_encoder else dataset
    _, labels_N, num_classes = opened(attacked)
    try:
        cast(Attack, attack.config).choose(labels_N, num_classes, random_stream("poison", 0))
    except Infeasible as error:
        return str(error)
    return None


def _hash(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:20]
