"""Experiment -> cells -> stage keys: what is to be done, and by what name each part of it is known.

A key is a hash of everything that a result depends on: the method with all its fields, its version, the keys it stands on, the
content of the data, the seed. Where data lies and how a stage is run play no part.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any, Literal, cast

import torch
from pydantic import Field

from raybd.registry import Method
from raybd.types import Attack, Config, DatasetMethod, Infeasible

StageName = Literal["poison", "victim", "score", "removal", "repair"]
STAGE_VERSIONS: dict[StageName, int] = {"poison": 1, "victim": 1, "score": 1, "removal": 1, "repair": 1}
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
    """For victims, and for retraining after removal."""
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
        """The stage of this name that it stands on, directly or not."""
        return next(stage for stage in self.path() if stage.name == name)

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
    last: Stage
    infeasible: str | None = None

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
        """Its path through the graph, in order."""
        return tuple(self.last.path())

    def __str__(self) -> str:
        parts = (self.dataset, self.attack, self.trainer)
        return " x ".join([*(method.name for method in parts), self.defense_name, f"seed {self.seed}"])


@dataclass(frozen=True)
class Experiment:
    """What a YAML file asks for, with every default filled in."""

    name: str
    seeds: tuple[int, ...]
    datasets: tuple[Method, ...]
    attacks: tuple[Method, ...]
    trainers: tuple[tuple[Method, Method], ...]
    """Trainer and network."""
    defenses: tuple[Method, ...]
    """Detectors and repairs."""
    removal: bool
    """After each detector of the training set: drop what it flags, train again, measure."""
    resources: AllResources

    def cells(self) -> tuple[Cell, ...]:
        """The product of the lists. Opens the data sets (labels and content hash, no images) and finds what is infeasible."""
        cells = []
        for dataset in self.datasets:
            data, labels_N, num_classes = _open(dataset)
            for attack in self.attacks:
                infeasible = _infeasible(attack, labels_N, num_classes)
                rest = product(self.trainers, self.seeds, (None, *self.defenses))
                cells += [
                    Cell(
                        experiment=self.name,
                        dataset=dataset,
                        attack=attack,
                        trainer=trainer,
                        network=network,
                        defense=defense,
                        seed=seed,
                        last=self._last_stage(dataset, data, attack, trainer, network, defense, seed),
                        infeasible=infeasible,
                    )
                    for (trainer, network), seed, defense in rest
                ]
        return tuple(cells)

    def resources_of(self, stage: Stage) -> Resources:
        """How a stage of this experiment runs."""
        special = {
            "victim": self.resources.trainers,
            "removal": self.resources.trainers,
            "score": self.resources.detectors,
            "repair": self.resources.repairs,
        }.get(stage.name)
        if stage.name == "poison":
            return Resources(gpus_per_worker=0)
        return special or Resources(**{name: getattr(self.resources, name) for name in Resources.model_fields})

    def describe(self) -> dict[str, Any]:
        """As an experiment file, resolved; paths are kept."""

        def entry(method: Method) -> dict[str, Any]:
            fields = method.config.model_dump(mode="json")
            hidden = {name: getattr(method.config, name) for name, f in type(method.config).model_fields.items() if f.exclude}
            label = {"name": method.name} if method.name != method.kind else {}
            return {"kind": method.kind, **label, **{k: str(v) for k, v in hidden.items() if v is not None}, **fields}

        return {
            "name": self.name,
            "seeds": list(self.seeds),
            "datasets": [entry(method) for method in self.datasets],
            "attacks": [entry(method) for method in self.attacks],
            "trainers": [{**entry(trainer), "network": entry(network)} for trainer, network in self.trainers],
            "detectors": [entry(method) for method in self.defenses if method.role == "detectors"],
            "repairs": [entry(method) for method in self.defenses if method.role == "repairs"],
            "removal": self.removal,
            "resources": self.resources.model_dump(mode="json", exclude_none=True),
        }

    def _last_stage(
        self,
        dataset: Method,
        data: str,
        attack: Method,
        trainer: Method,
        network: Method,
        defense: Method | None,
        seed: int,
    ) -> Stage:
        def stage(name: StageName, method: Method, *needs: Stage, network: Method | None = None) -> Stage:
            return Stage(name, method, seed, dataset, data, needs, network)

        poison = stage("poison", attack)
        victim = stage("victim", trainer, poison, network=network)
        if defense is None:
            return victim
        if defense.role == "repairs":
            return stage("repair", defense, victim)
        score = stage("score", defense, victim)
        if self.removal and getattr(defense.config, "pool", None) == "train":
            return stage("removal", trainer, score, network=network)
        return score


def random_stream(stage: str, seed: int) -> torch.Generator:
    """The stream of random numbers of a stage: it depends on the stage's name and the seed alone, so variants share it."""
    digest = hashlib.sha256(f"{stage}:{seed}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def _open(dataset: Method) -> tuple[str, torch.Tensor, int]:
    """Content key, labels of the training split, number of classes."""
    config = cast(DatasetMethod, dataset.config)
    source = config.source()
    _, rows = config.split(source)["train"]
    return _hash(dataset.describe(), source.fingerprint), source.train_y_N[rows], len(source.class_names)


def _infeasible(attack: Method, labels_N: torch.Tensor, num_classes: int) -> str | None:
    try:
        cast(Attack, attack.config).choose(labels_N, num_classes, random_stream("poison", 0))
    except Infeasible as error:
        return str(error)
    return None


def _hash(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:20]
