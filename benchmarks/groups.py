"""Two Ray Train workers against one worker with two threads, and the cost of the engine itself.

    python -m benchmarks.groups [--network resnet18] [--images 1280] [--epochs 3] [--rounds 2]
                                [--starts 3] [--tasks 20]

1. Images per second of a victim's training, from the stage's history after the first epoch; rounds
   alternate between the two.
2. A scoring stage that does nothing, in a group of workers: seconds from submission to its only
   step, and from there to the end of the group. Nothing has been imported before the first group.
3. The same stage as a plain task, and once more when its result is in the store: seconds from
   submission to the result.

Images are random pixels; the victim of 2 and 3 is a small network on handwritten digits.
"""

import statistics
import sys
import tempfile
import time
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import ray
import torch

from benchmarks.rounds import arguments_of, print_header, print_row
from raybd.cells.resources import Resources
from raybd.cells.run import run_stage
from raybd.cells.stage import Stage
from raybd.engine.cluster.connect import connected
from raybd.engine.cluster.resources import ClusterResources, gpus_per_worker
from raybd.engine.grid.datasets import load_dataset, pack
from raybd.engine.grid.status_actor import new_status_actor
from raybd.engine.grid.tasks import run_alone, run_group
from raybd.plan.file import parse
from raybd.results.provenance import commit, device_name, versions
from raybd.results.store import Store
from raybd.types.data import Dataset, Split
from raybd.types.methods import DatasetMethod

ALONE = Resources(cpus_per_worker=2)
TOGETHER = Resources(workers=2)
PLAIN = Resources(gpus_per_worker=0)
FIRST = "1 worker, 2 threads"
WAYS = {FIRST: ALONE, "2 Ray Train workers": TOGETHER}


def main() -> None:
    arguments = arguments_of(__doc__)
    arguments.add_argument("--network", default="resnet18")
    arguments.add_argument("--images", type=int, default=1280)
    arguments.add_argument("--epochs", type=int, default=3)
    arguments.add_argument("--rounds", type=int, default=2)
    arguments.add_argument("--starts", type=int, default=3)
    arguments.add_argument("--tasks", type=int, default=20)
    asked = arguments.parse_args()

    found = versions()
    print(f"{device_name()}; torch {found['torch']}, ray {found['ray']}, commit {commit()}")
    # While connected, stdout is sent to stderr, because Ray prints; the tables are for stdout.
    tables = redirect_stdout(sys.stdout)
    with tempfile.TemporaryDirectory() as folder, connected() as have, tables:
        cluster = Cluster(have)
        if asked.starts or asked.tasks:
            starts(cluster, Store(f"{folder}/starts"), asked.starts, asked.tasks)
        if asked.rounds:
            throughput(cluster, folder, asked.network, asked.images, asked.epochs, asked.rounds)


@dataclass(frozen=True)
class Cluster:
    """Runs stages as a grid does."""

    have: ClusterResources

    @cached_property
    def status(self) -> Any:
        """The actor that stages report to."""
        return new_status_actor()

    def run(self, stage: Stage, store: Store, data: Any, resources: Resources) -> float:
        """Run a stage, and return the seconds."""
        gpus = gpus_per_worker(resources, self.have)
        status = self.status  # made before the clock starts
        began = time.monotonic()
        if resources.workers > 1:
            ray.get(run_group.remote(stage, store, [data], resources, gpus, status))
        else:
            task = run_alone.options(num_cpus=resources.cpus_per_worker, num_gpus=gpus)
            ray.get(task.remote(stage, [], store, data, resources, status))
        return time.monotonic() - began

    def run_moment(
        self, stage: Stage, store: Store, data: Any, resources: Resources
    ) -> tuple[float, float]:
        """Run a stage of the detector `moment`; return the seconds before and after its step."""
        # The detector runs in another process: only the wall clock is common to both.
        began = time.time()
        self.run(stage, store, data, resources)
        ended = time.time()
        at = store.manifest(stage.name, stage.key)["facts"]["at"]
        return at - began, ended - at


def throughput(
    cluster: Cluster, folder: str, network: str, images: int, epochs: int, rounds: int
) -> None:
    """Print the images per second of a victim's training, by one worker and by two."""
    victim = stages(network, epochs, 0)[1]
    data = ray.put(random_dataset(images))
    speeds: dict[str, list[float]] = {name: [] for name in WAYS}
    for turn in range(rounds):
        for name, resources in WAYS.items():
            # A store for each: a victim that is there would not be trained again.
            store = Store(f"{folder}/{turn}{resources.workers}")
            # The benign poison changes no image, so that it fits the random ones, too.
            run_stage(victim.poison_stage, store, digits(victim))
            cluster.run(victim, store, data, resources)
            history = store.manifest("victim", victim.key)["history"]
            # The first epoch includes what happens once: imports, kernels, allocations.
            speeds[name] += [facts["images_per_second"] for facts in history[1:]]

    work = f"{network}, {images} images x {epochs} epochs, batch 128"
    print(f"\n{work}, median of the epochs after the first in {rounds} rounds")
    print_header("way", "images/s", "min - max", "ratio")
    base = statistics.median(speeds[FIRST])
    for name, seen in speeds.items():
        middle = statistics.median(seen)
        span = f"{min(seen):.0f} - {max(seen):.0f}"
        print_row(name, f"{middle:.0f}", span, f"{middle / base:.2f}")


def starts(cluster: Cluster, store: Store, groups: int, tasks: int) -> None:
    """Print the seconds that a stage which does nothing takes, in a group and as a plain task."""
    poison, victim, *moments = stages("small_cnn", 1, max(groups, tasks + 1))
    for stage in (poison, victim):
        run_stage(stage, store, digits(victim))
    data = load_dataset.remote(victim.dataset, victim.data)
    # Loading the data is no part of a start.
    ray.wait([data])

    print()
    print_header("a stage that does nothing", "seconds to its step", "from there to the end")
    for turn, stage in enumerate(moments[:groups]):
        before, after = cluster.run_moment(stage, store, data, TOGETHER)
        print_row(f"group of 2 workers, number {turn + 1}", f"{before:.2f}", f"{after:.2f}")
    # The plain tasks run the same stages, which must not be in the store.
    for stage in moments[:groups]:
        store.remove(f"artifacts/score/{stage.key}")

    # The first task starts a worker process, and is not measured.
    cluster.run_moment(moments[0], store, data, PLAIN)
    measured = moments[1 : tasks + 1]
    took = [cluster.run_moment(stage, store, data, PLAIN) for stage in measured]
    again = [cluster.run(stage, store, data, PLAIN) for stage in measured]
    before, after = (statistics.median(part) for part in zip(*took, strict=True))
    print_row(f"plain task, median of {tasks}", f"{before:.3f}", f"{after:.3f}")
    in_store = f"{statistics.median(again):.3f} in all"
    print_row(f"plain task whose stage is in the store: {in_store}", "", "")


def stages(network: str, epochs: int, moments: int) -> list[Stage]:
    """Return the benign poison, a victim, and scoring stages on it."""
    file = {
        "name": "groups",
        "datasets": [{"kind": "digits"}],
        "attacks": [{"kind": "none"}],
        "trainers": [{"kind": "supervised", "network": network, "epochs": epochs}],
        "detectors": [
            {"kind": "benchmarks.moment", "take": take, "name": f"moment{take}"}
            for take in range(moments)
        ],
    }
    cells = parse(file).cells()
    return [*cells[0].stages(), *(cell.last for cell in cells[1:])]


def digits(stage: Stage) -> Dataset:
    """Return the data set of a stage."""
    return cast(DatasetMethod, stage.dataset.config).load()


def random_dataset(images: int) -> dict[str, Any]:
    """Return random images of CIFAR's shape, packed.

    There are few test images, so that the end of the stage takes no time.
    """
    rng = torch.Generator().manual_seed(0)
    x_NCHW = torch.randint(0, 256, (images, 3, 32, 32), generator=rng, dtype=torch.uint8)
    train = Split(x_NCHW, torch.randint(0, 10, (images,), generator=rng))
    few = train.select(torch.arange(64))
    return pack(Dataset(tuple("0123456789"), train, few, few))


if __name__ == "__main__":
    main()
