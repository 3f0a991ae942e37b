"""Victims and encoders of the behaviour tests, each trained once for a run of the whole suite.

All test files and all processes of pytest-xdist share one folder. Who needs a victim first trains
it under a lock; everybody else loads it. Loaded objects are fresh ones: a test may change them.

Ask for them with the fixtures `shared` and `small_cifar10` of conftest.py.
"""

import fcntl
import hashlib
import os
import pickle
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest
import torch

from raybd.attacks.encoder.badencoder import BadEncoder
from raybd.cells.cell import Cell
from raybd.cells.data import load_data
from raybd.cells.loading import load_poisoned, load_victim
from raybd.cells.row import row_of
from raybd.cells.run import run_stage
from raybd.cells.stage import Stage
from raybd.networks.small_cnn import SmallCnn
from raybd.plan.file import parse
from raybd.registry import Method, method_class
from raybd.results.store import Store
from raybd.trainers.supervised import Supervised
from raybd.types.data import Dataset, Poisoned
from raybd.types.methods import Attack, AttackInput, DatasetMethod
from raybd.types.models import Victim

Entry = dict[str, Any]
"""An entry of an experiment file: a kind and its fields."""
Made = TypeVar("Made")

DIGITS: Entry = {"kind": "digits", "clean": 0.1}
SMALL_CIFAR10: Entry = {"kind": "cifar10", "limit": 5000, "test_limit": 1000, "clean": 0.2}
"""One part of CIFAR-10 for all tests, so that they can share what is trained on it."""
TRAINERS: dict[str, Entry] = {
    "digits": {"epochs": 10, "lr": 0.05, "augment": "none"},
    "cifar10": {"epochs": 10, "lr": 0.1, "batch_size": 64, "augment": "flip"},
}
"""How a small_cnn is trained on each data set."""
ENCODER_NETWORK = SmallCnn(width=16)
ENCODER_TRAINER = Supervised(epochs=8, lr=0.05, augment="flip", precision="fp32")
"""The encoder of a classifier is quick to train, and its embeddings lie in clusters."""
BADENCODER = BadEncoder(epochs=10, lr=0.05, batch_size=128, precision="fp32")


@dataclass(frozen=True)
class Trained:
    """A victim with everything that a behaviour test asks about."""

    victim: Victim
    dataset: Dataset
    poisoned: Poisoned
    clean_accuracy: float
    attack_success: float | None
    """None for an attack that poisons nothing."""
    largest_pixel_change: int
    """Largest change of a pixel by the trigger, of 255."""


class SharedVictims:
    """The folder that all processes of a run share, and what is trained into it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._store = Store(str(folder / "store"))

    def classifier(self, dataset: Entry, attack: Entry, **changed: Any) -> Trained:
        """Return the undefended victim of an attack, trained through the stages of a cell.

        `changed` are fields of the trainer that differ from the recipe of the data set.
        """
        (cell,) = _cells(dataset, attack, {}, **changed)
        self._run(cell)

        poison = cell.victim.poison_stage
        measured = self._store.manifest("victim", cell.last.key)
        return Trained(
            load_victim(cell.last, self._store),
            loaded(dataset),
            load_poisoned(poison, self._store),
            measured["clean_accuracy"],
            measured["attack_success"],
            self._store.manifest("poison", poison.key)["largest_pixel_change"],
        )

    def defended(
        self, dataset: Entry, attack: Entry, role: str, defense: Entry, removal: bool = False
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the row of the undefended victim, and that of a defense of this role on it.

        `role` is the list of an experiment file that names the defense. Both rows are computed by
        the stages of cells, as `run_cell` does; the victim is the one of `classifier`.
        """
        undefended, cell = _cells(dataset, attack, {role: [defense], "removal": removal})
        self._run(undefended)
        self._run(cell)
        return row_of(undefended, self._store), row_of(cell, self._store)

    def _run(self, cell: Cell) -> None:
        # Stages of several cells overlap: each attack that needs the clean twin needs the same one.
        for stage in cell.stages():
            with self._locked(stage.key), one_thread():
                run_stage(stage, self._store, _of_stage(stage))

    def clean_encoder(self, dataset: Entry) -> Victim:
        """Return an encoder without a head that no attack has reached."""
        return self.once(f"encoder {dataset}", lambda: _train_encoder(loaded(dataset)))

    def infected_encoder(self, dataset: Entry, attack: Attack) -> tuple[Poisoned, Victim]:
        """Return the trigger of an attack, and the clean encoder with its backdoor."""
        given = AttackInput(loaded(dataset).train, 10, twin=self.clean_encoder(dataset))
        rng = torch.Generator().manual_seed(1)
        poisoned = self.once(
            f"encoder {dataset} infected by {attack!r}", lambda: attack.poison(given, rng)
        )
        assert poisoned.victim is not None
        return poisoned, poisoned.victim

    def once(self, name: str, make: Callable[[], Made]) -> Made:
        """Return what `make` returns: made by the first process that asks, read by the others."""
        key = hashlib.sha256(name.encode()).hexdigest()[:24]
        path = self._folder / f"{key}.pickle"
        with self._locked(key):
            if not path.exists():
                with one_thread():
                    path.write_bytes(pickle.dumps(make()))
        return cast(Made, pickle.loads(path.read_bytes()))

    @contextmanager
    def _locked(self, key: str) -> Iterator[None]:
        with (self._folder / f"{key}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # released when the file is closed
            yield


def _cells(dataset: Entry, attack: Entry, more: Entry, **changed: Any) -> tuple[Cell, ...]:
    """Return the cell of a victim, and those of the defenses that `more` of an experiment names."""
    recipe = {**TRAINERS[dataset["kind"]], **changed}
    trainer = {"kind": "supervised", "network": "small_cnn", **recipe}
    return parse(
        {
            "name": "shared",
            "datasets": [dataset],
            "attacks": [attack],
            **more,
            # A training defense stands in the list of trainers.
            "trainers": [trainer, *more.get("trainers", [])],
        }
    ).cells()


def _of_stage(stage: Stage) -> Dataset:
    """Return the images that a stage reads; read once by each process."""
    return _read(stage.dataset, stage.data)


@cache
def _read(method: Method, planned: str) -> Dataset:
    return load_data(method, planned)


def shared_folder(factory: pytest.TempPathFactory) -> Path:
    """Return one folder for all processes of this run of pytest."""
    own = factory.getbasetemp()
    # Each process of pytest-xdist has its own folder below the one of the run.
    run = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    return run / "shared_victims"


def loaded(dataset: Mapping[str, Any]) -> Dataset:
    """Return the images of a data set's entry; read once by each process, so leave them alone."""
    return _load(tuple(sorted(dataset.items())))


@cache
def _load(entry: tuple[tuple[str, Any], ...]) -> Dataset:
    fields = dict(entry)
    config = method_class("datasets", fields.pop("kind")).model_validate(fields)
    return cast(DatasetMethod, config).load()


def _train_encoder(dataset: Dataset) -> Victim:
    rng = torch.Generator().manual_seed(0)
    victim = ENCODER_TRAINER.train(dataset.train, 10, ENCODER_NETWORK, rng)
    return Victim(victim.encoder, None, victim.mean_C, victim.std_C).eval()


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread, so that a number does not depend on who trains first."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
