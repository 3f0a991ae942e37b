"""A stage: one cached step of a cell, with named inputs.

Each file of raybd/stages/ defines one kind of stage: a class with its name, its version, the
resources that it uses, its inputs (fields that hold other stages) and what it computes. Everything
else derives from that: keys, the order of execution, resources, the columns of a row.

A key is a hash of everything that a result depends on: the method with all its fields and its
version, the content of the data, the seed, the keys of the inputs. The place of the data and the
way in which a stage is run play no part.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from raybd.registry import Method
from raybd.results.store import Store
from raybd.types.config import Config, Precision
from raybd.types.data import Dataset

if TYPE_CHECKING:
    import pyarrow as pa

    from raybd.cells.wanted import Wanted

ResourceRole = Literal["trainers", "detectors", "scanners", "repairs", "data"]
"""Whose resources a stage uses; `data`: it changes images only, and needs no GPU."""
Facts = dict[str, Any]


@dataclass(frozen=True)
class Result:
    """What a stage computed."""

    tensors: Mapping[str, Tensor]
    facts: Facts = field(default_factory=dict)
    table: "pa.Table | None" = None
    """Rows that are written to the store's tables, for readers; no stage reads them."""
    predictions: "pa.Table | None" = None
    """What its victim says of each test image; what the experiment keeps of it is written."""
    dynamics: "pa.Table | None" = None
    """How its victim did after each epoch, if that is kept."""
    trajectories: Mapping[str, Tensor] = field(default_factory=dict)
    """Loss, margin and correctness of each training image after each epoch, if they are kept."""


@dataclass(frozen=True, kw_only=True)
class Stage(ABC):
    """One cached step.

    A subclass adds its inputs as fields, in the order in which its key has them.
    """

    name: ClassVar[str]
    """Its folder in the store; the name of its file in raybd/stages/."""
    version: ClassVar[int] = 1
    """Part of the key: raise it when the stage computes something else."""
    crash_retries: ClassVar[int] = 2
    """How often it is tried again after its process died."""

    method: Method
    """The method that it runs."""
    seed: int
    dataset: Method
    data: str
    """Hash of the data set's content and split."""
    network: Method | None = None

    @abstractmethod
    def run(self, store: Store, dataset: Dataset) -> Result:
        """Compute it; its inputs are in the store."""

    def has_tables(self, store: Store) -> bool:
        """Return whether the rows that it wrote for readers, beside its artefact, are there."""
        return True

    # --- where it stands among the stages of a cell ----------------------------------------------

    @cached_property
    def inputs(self) -> dict[str, "Stage"]:
        """The stages that it reads, by name."""
        values = ((found.name, getattr(self, found.name)) for found in fields(self))
        return {name: value for name, value in values if isinstance(value, Stage)}

    @property
    def extra_key(self) -> tuple[Any, ...]:
        """What else its result depends on."""
        return ()

    @property
    def described(self) -> dict[str, Any]:
        """The method as it stands in the key."""
        return self.method.describe()

    @cached_property
    def key(self) -> str:
        """The name of its artefact."""
        return content_hash(
            self.name,
            self.version,
            self.described,
            # None stays None, as in the keys of older stores.
            self.network and self.network.describe(),
            self.seed,
            self.data,
            [stage.key for stage in self.inputs.values()],
            # Last, and nothing if empty: a kind that gets an extra keeps the keys of those without.
            *self.extra_key,
        )

    @property
    def precision(self) -> Precision | None:
        """The precision that the experiment pins; None: what is fastest where the stage runs.

        It is in the key, by the descriptions of the methods.
        """
        # Of the whole path: what plants canaries or repeats a verdict is no method of the file.
        return next((one.method.precision for one in self.path() if one.method.precision), None)

    def path(self) -> Iterator["Stage"]:
        """Yield all stages that it depends on, and itself, in an order of execution; each once."""
        seen: set[str] = set()
        for stage in self.inputs.values():
            # By key: two inputs may stand on the same stage.
            for upstream in stage.path():
                if upstream.key not in seen:
                    seen.add(upstream.key)
                    yield upstream
        yield self

    @property
    @abstractmethod
    def poison_stage(self) -> "Stage":
        """The poison that it is about."""

    @property
    def overlay_stage(self) -> "Stage":
        """The stage that changed the training set last: planted canaries, or the poison."""
        return self.poison_stage

    def without_planted(self, store: Store, dataset: Dataset) -> Dataset:
        """Return the data set as it is for the stages that stand on this overlay."""
        return dataset

    # --- what it tells the plan, the engine and the row ------------------------------------------

    @property
    def title(self) -> str:
        """What a progress line calls it."""
        return f"{self.name} {self.method.name}"

    @property
    def resource_role(self) -> ResourceRole:
        """Whose resources it uses."""
        return "trainers"

    @property
    def suspicion(self) -> "Stage | None":
        """The stage of its path, or itself, that gives suspicion, if there is one."""
        return None

    @property
    def costs(self) -> tuple["Stage", ...]:
        """The stages whose time counts as its own."""
        return (self,)

    def columns(self, facts: Mapping[str, Any]) -> Facts:
        """Return the columns of a cell's row that come from this stage."""
        return {}

    def control_columns(self, facts: Mapping[str, Any], row: Mapping[str, Any]) -> Facts:
        """Return the columns that come from it where it is the control of a cell."""
        return {}

    @classmethod
    def can_be(cls, place: Literal["for_cell", "control_for_cell", "after_cell"]) -> bool:
        """Return whether stages of this kind may have this place in a cell."""
        hooks = {
            "for_cell": (cls.for_cell, Stage.for_cell),
            "control_for_cell": (cls.control_for_cell, Stage.control_for_cell),
            "after_cell": (cls.after_cell, Stage.after_cell),
        }
        own, default = hooks[place]
        return own.__func__ is not default.__func__  # type: ignore[attr-defined]

    @classmethod
    def for_cell(cls, wanted: "Wanted") -> "Stage | None":
        """Return the stage of this kind at the end of a cell's path, if the cell has one."""
        return None

    @classmethod
    def control_for_cell(cls, wanted: "Wanted") -> "Stage | None":
        """Return the stage of this kind that a cell is compared with: one without a backdoor."""
        return None

    @classmethod
    def after_cell(cls, wanted: "Wanted", last: "Stage") -> tuple["Stage", ...]:
        """Return further stages of this kind that stand on the end of a cell's path."""
        return ()


@dataclass(frozen=True, kw_only=True)
class VictimStage(Stage):
    """A stage that hands out a victim, which `load_victim` loads."""

    @property
    def victim_network(self) -> Method:
        """The architecture of the victim."""
        assert self.network is not None
        return self.network

    @property
    def reshapers(self) -> tuple[Config, ...]:
        """The methods that may have given the victim other modules than its network builds."""
        return (self.method.config,)

    @property
    def encoder_stage(self) -> "VictimStage | None":
        """The encoder that the victim is a probe of, if it is one."""
        return None

    def refused(self, store: Store) -> Tensor | None:
        """Return a mask of the inputs that get no answer; None: all do.

        Over all test images, followed by those that count with the trigger.
        """
        return None


@dataclass(frozen=True, kw_only=True)
class OnVictim(Stage):
    """A stage that looks at a victim and hands out none."""

    victim: VictimStage

    @property
    def poison_stage(self) -> Stage:
        """That of the victim."""
        return self.victim.poison_stage

    @property
    def overlay_stage(self) -> Stage:
        """That of the victim."""
        return self.victim.overlay_stage


def random_stream(stage: str, seed: int, run: int = 0) -> torch.Generator:
    """Return the random numbers of a stage, which depend on its name and the seed alone.

    So variants of a method share them. A stage that runs more than once has a stream for each run.
    """
    # Run 0 has the stream of a stage that runs once: its verdict is the first one to compare.
    digest = hashlib.sha256(f"{stage}:{seed}{f':{run}' if run else ''}".encode()).digest()
    # Seven bytes fit into a seed of 64 bits, signed or not.
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def content_hash(*parts: Any) -> str:
    """Return a short hash of JSON-like values."""
    # Sorted: the order of the fields in a file must not change a key.
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:20]
