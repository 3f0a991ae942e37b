"""Experiment -> cells: what is to be done. Each cell is a path through the graph of stages."""

from dataclasses import dataclass
from functools import cache, cached_property
from itertools import product
from typing import Any

from pydantic import Field

from raybd.canaries.canaries import Canaries
from raybd.plan.graph import (
    Stage,
    Training,
    content_hash,
    control_stage,
    encoder_of,
    infeasible,
    last_stage,
    no_attack,
    open_labels,
    stability_stage,
    victim_stage,
)
from raybd.registry import Method
from raybd.types.config import Config


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
    time_limit: float | None = Field(None, gt=0)
    """Seconds after which a running stage is stopped and its cells fail; unset: none."""
    compile: bool = False
    """Train through torch.compile where one worker has the stage: for long trainings on a GPU. It does not pay on a CPU."""


class AllResources(Resources):
    """Resources for all roles, and where a role needs others."""

    trainers: Resources | None = None
    """For victims, training that is a defense or an attack, and retraining after removal."""
    detectors: Resources | None = None
    """For scoring."""
    scanners: Resources | None = None
    """For scans."""
    repairs: Resources | None = None
    """For repairs."""
    patience: float = Field(20, ge=0)
    """Seconds to wait for nodes where a stage fits on none that are there; an autoscaler is asked for them meanwhile."""


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
    """The same on the clean twin: attack success without a backdoor, a detector held against the same inputs, a scan."""
    stability: Stage | None = None
    """The same verdict from other random streams, where that was asked for."""

    @property
    def defense_name(self) -> str:
        """As in the tables; `none` is the undefended victim."""
        return self.defense.name if self.defense else "none"

    @cached_property
    def id(self) -> str:
        """The name of its files."""
        names = [method.name for method in (self.dataset, self.attack, self.trainer, self.network)]
        return content_hash(self.experiment, names, self.defense_name, self.last.key)[:16]

    def stages(self) -> tuple[Stage, ...]:
        """Its path through the graph, in order; each stage once."""
        ends = (self.victim, self.last, self.control, self.stability)
        return tuple({stage.key: stage for end in ends if end for stage in end.path()}.values())

    def keys(self) -> dict[str, str]:
        """The key of each of its stages, by name: of the clean twin's only the last, as `control`, where its own have the name."""
        ends = (self.control, self.victim, self.last, self.stability)
        own: dict[str, str] = {stage.name: stage.key for end in ends if end for stage in end.path()}
        return {**own, **({"control": self.control.key} if self.control else {})}

    def __str__(self) -> str:
        parts = (self.dataset, self.attack, self.trainer)
        return " x ".join(
            [*(method.name for method in parts), self.defense_name, f"seed {self.seed}"]
        )


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
    """Detectors, scanners, repairs, and trainers that are defenses: these use the network of the victim that they stand beside."""
    removal: bool
    """After each detector of the training set: drop what it flags, train again, measure. After one of test inputs on an encoder:
    drop what it flags of the probe's training set, train the probe again, refuse the inputs that it flags, measure."""
    resources: AllResources
    canaries: Canaries | None = None
    """Planted into the training set of each victim, to measure detectors without truth."""

    def cells(self) -> tuple[Cell, ...]:
        """The product of the lists. Opens the data sets (labels and content hash, no images) and finds what is infeasible."""
        cells, opened = [], cache(open_labels)
        planted, repeated = self._canaries()
        for dataset in self.datasets:
            for attack, training in product(self.attacks, self.trainings):
                reason = infeasible(opened, dataset, attack, training)
                for seed in self.seeds:
                    victim = victim_stage(opened, dataset, attack, training, seed, planted)
                    twin = victim_stage(opened, dataset, no_attack(), training, seed)
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
                            last=(last := last_stage(victim, defense, self.removal)),
                            infeasible=reason,
                            control=control_stage(victim, twin, defense),
                            stability=stability_stage(last, repeated) if repeated else None,
                        )
                        for defense in (None, *self.defenses)
                        if not (
                            defense and defense.role == "training_defenses" and encoder_of(victim)
                        )
                    ]
        return tuple(cells)

    def _canaries(self) -> tuple[Method | None, Method | None]:
        """As they are planted, whatever is done with them later, so that victims are shared; and as verdicts are repeated."""
        if self.canaries is None:
            return None, None
        once = self.canaries.model_copy(update={"runs": 1})
        planted, repeated = (
            Method("attacks", "canaries", config, "canaries") for config in (once, self.canaries)
        )
        return planted, repeated if self.canaries.runs > 1 else None

    def resources_of(self, stage: Stage) -> Resources:
        """How a stage of this experiment runs."""
        special = {
            "poison": self.resources.trainers,
            "encoder": self.resources.trainers,
            "victim": self.resources.trainers,
            "defended": self.resources.trainers,
            "removal": self.resources.trainers,
            "purification": self.resources.trainers,
            "features": self.resources.detectors,
            "score": self.resources.detectors,
            "control": self.resources.detectors,
            "baseline": self.resources.detectors,
            "scan": self.resources.scanners,
            "repair": self.resources.repairs,
        }.get(stage.needs[0].name if stage.name == "stability" else stage.name)
        if stage.name == "plant" or (
            stage.name == "poison" and not stage.needs and stage.network is None
        ):
            return Resources(gpus_per_worker=0, time_limit=self.resources.time_limit)
        return special or Resources(
            **{name: getattr(self.resources, name) for name in Resources.model_fields}
        )

    def describe(self) -> dict[str, Any]:
        """As an experiment file, resolved; paths are kept."""

        def entry(method: Method) -> dict[str, Any]:
            fields = method.config.model_dump(mode="json")
            hidden = {
                name: getattr(method.config, name)
                for name, f in type(method.config).model_fields.items()
                if f.exclude
            }
            label = {"name": method.name} if method.name != method.kind else {}
            trusted = {}
            if method.trusted is not None:
                own = {"dataset": entry(method.trusted.dataset)} if method.trusted.dataset else {}
                trusted = {"trusted": {**own, "poisoned": method.trusted.poisoned}}
            return {
                **trusted,
                "kind": method.kind,
                **label,
                **{k: str(v) for k, v in hidden.items() if v is not None},
                **fields,
            }

        def trained(training: Training) -> dict[str, Any]:
            described = {**entry(training.trainer), "network": entry(training.network)}
            source = training.source
            if source is None:
                return described
            inner = trained(source.training)
            inner.pop("network")
            named = {"dataset": source.dataset, "attack": source.attack}
            start = {
                **{role: entry(method) for role, method in named.items() if method},
                "trainer": inner,
            }
            return {**described, "encoder" if source.attack is None else "source": start}

        return {
            "name": self.name,
            "seeds": list(self.seeds),
            "datasets": [entry(method) for method in self.datasets],
            "attacks": [entry(method) for method in self.attacks],
            "trainers": [
                *map(trained, self.trainings),
                *(entry(method) for method in self.defenses if method.role == "training_defenses"),
            ],
            "detectors": [entry(method) for method in self.defenses if method.role == "detectors"],
            "scanners": [entry(method) for method in self.defenses if method.role == "scanners"],
            "repairs": [entry(method) for method in self.defenses if method.role == "repairs"],
            "removal": self.removal,
            "resources": self.resources.model_dump(mode="json", exclude_none=True),
            **({"canaries": self.canaries.model_dump(mode="json")} if self.canaries else {}),
        }
