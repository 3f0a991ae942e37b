"""Trainers of an experiment side by side: time, clean accuracy, attack success.

    RAYBD_DATA=/data python -m benchmarks.recipes configs/fast_recipe.yaml [--seeds 0 1 2]

All trainers of the experiment train on its first data set and its first attack that plants
something. They take turns after each epoch, so that a change of the machine's speed affects all of
them; the ratio is that to the first trainer's time. One thread each.
"""

import dataclasses
import statistics
import threading
import time
from collections.abc import Callable
from typing import cast

import torch

from benchmarks.rounds import arguments_of, print_header, print_row, where
from raybd.cells.victim_quality import measure
from raybd.plan.file import load
from raybd.plan.graph import Training
from raybd.training.runtime import Runtime, running
from raybd.types.data import Dataset, Poisoned, Split
from raybd.types.methods import Attack, AttackInput, DatasetMethod, Trainer
from raybd.types.models import Network, Victim

QUALITY = ("clean_accuracy", "attack_success")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One training."""

    seconds: float
    cpu_seconds: float
    clean_accuracy: float
    attack_success: float


def main() -> None:
    arguments = arguments_of(__doc__)
    arguments.add_argument("config")
    arguments.add_argument("--seeds", type=int, nargs="+")
    asked = arguments.parse_args()
    torch.set_num_threads(1)

    experiment = load(asked.config)
    dataset = cast(DatasetMethod, experiment.datasets[0].config).load()
    attack = next(one for one in experiment.attacks if one.kind != "none")
    print(f"{asked.config}: {len(dataset.train)} images, {attack.name}")
    print(where())

    found: dict[str, list[Outcome]] = {}
    for seed in asked.seeds or experiment.seeds:
        given = AttackInput(train=dataset.train, num_classes=dataset.num_classes)
        rng = torch.Generator().manual_seed(seed)
        poisoned = cast(Attack, attack.config).poison(given, rng)
        outcomes = in_turns(experiment.trainings, dataset, poisoned, seed)
        for name, outcome in outcomes.items():
            found.setdefault(name, []).append(outcome)
            print(f"seed {seed}, {name}: {outcome}", flush=True)
    show(found)


def in_turns(
    trainings: tuple[Training, ...], dataset: Dataset, poisoned: Poisoned, seed: int
) -> dict[str, Outcome]:
    """Train all victims, each for an epoch in turn, and measure them."""
    split = poisoned.over(dataset.train)
    clocks = _take_turns([_work(one, split, dataset, seed) for one in trainings])
    outcomes: dict[str, Outcome] = {}
    for training, clock in zip(trainings, clocks, strict=True):
        assert clock.victim is not None, training.trainer.name
        facts = measure(clock.victim, dataset, poisoned)
        quality = (cast(float, facts[name]) for name in QUALITY)
        outcomes[training.trainer.name] = Outcome(clock.seconds, clock.cpu_seconds, *quality)
    return outcomes


def _work(training: Training, split: Split, dataset: Dataset, seed: int) -> Callable[[], Victim]:
    trainer = cast(Trainer, training.trainer.config)
    network = cast(Network, training.network.config)

    def work() -> Victim:
        # The same stream for all: first weights and order of images are the same.
        rng = torch.Generator().manual_seed(seed)
        return trainer.train(split, dataset.num_classes, network, rng)

    return work


class _Clock(threading.Thread):
    """A training that runs while it is its turn, and the time that it took."""

    def __init__(self, work: Callable[[], Victim]) -> None:
        super().__init__(daemon=True)
        self.work = work
        self.victim: Victim | None = None
        self.seconds = 0.0
        self.cpu_seconds = 0.0
        self.mine = threading.Semaphore(0)
        self.given_back = threading.Semaphore(0)

    def turn(self) -> None:
        """Let it work until it gives the turn back."""
        clock = time.monotonic()
        cpu = time.process_time()
        self.mine.release()
        self.given_back.acquire()
        self.seconds += time.monotonic() - clock
        self.cpu_seconds += time.process_time() - cpu

    def run(self) -> None:
        """Train; the reports of the epochs are where turns end."""
        self.mine.acquire()
        try:
            with running(Runtime(report=lambda facts: self._hand_over())):
                self.victim = self.work()
        finally:
            self.given_back.release()

    def _hand_over(self) -> None:
        self.given_back.release()
        self.mine.acquire()


def _take_turns(works: list[Callable[[], Victim]]) -> list[_Clock]:
    clocks = [_Clock(work) for work in works]
    for clock in clocks:
        clock.start()
    while any(clock.is_alive() for clock in clocks):
        for clock in clocks:
            if clock.is_alive():
                clock.turn()
                # A thread that has just ended its work needs a moment to end itself.
                clock.join(0.01 if clock.victim is None else None)
    return clocks


def show(found: dict[str, list[Outcome]]) -> None:
    """Print a row for each trainer: medians of times, and the ratio of their sums to the first."""
    print_header(
        "trainer", "s", "CPU s", "ratio", "ratio by CPU s", "clean accuracy", "attack success"
    )
    base = next(iter(found.values()))
    for name, seen in found.items():
        clock = sum(one.seconds for one in seen) / sum(one.seconds for one in base)
        cpu = sum(one.cpu_seconds for one in seen) / sum(one.cpu_seconds for one in base)
        print_row(
            name,
            f"{statistics.median(one.seconds for one in seen):.1f}",
            f"{statistics.median(one.cpu_seconds for one in seen):.1f}",
            f"{clock:.2f}",
            f"{cpu:.2f}",
            ", ".join(f"{one.clean_accuracy:.3f}" for one in seen),
            ", ".join(f"{one.attack_success:.3f}" for one in seen),
        )


if __name__ == "__main__":
    main()
