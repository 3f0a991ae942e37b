"""Two Ray Train workers against one worker with two threads, and what the engine itself costs, in one run on this machine.

    python -m benchmarks.groups [--network resnet18] [--images 1280] [--epochs 3] [--rounds 2] [--starts 3] [--tasks 20]

1. Images per second of a victim's training, from the stage's history after the first epoch; rounds alternate between the two.
2. A scoring stage that does nothing, on a group: seconds from submission to its only step, and from there to the end of the group.
   The first group is shown apart: nothing has been imported before it.
3. The same stage as a plain task, and once more when it is in the store already: seconds from submission to the result.
Images are random pixels; the victim of 2 and 3 is a small network on handwritten digits.
"""

import argparse
import statistics
import tempfile
import time
from typing import Any, cast

import ray
import torch

from raybd.cells import run as stages
from raybd.cells.resources import Resources
from raybd.cells.stage import Stage
from raybd.engine.cluster.connect import connected
from raybd.engine.cluster.resources import ClusterResources, gpus_per_worker
from raybd.engine.grid.datasets import load_dataset, pack
from raybd.engine.grid.status_actor import new_status_actor
from raybd.engine.grid.tasks import run_alone, run_group
from raybd.plan import file as experiment_file
from raybd.results.provenance import commit, device_name, versions
from raybd.results.store import Store
from raybd.types.data import Dataset, Split
from raybd.types.methods import DatasetMethod

_ALONE, _TOGETHER = Resources(cpus_per_worker=2), Resources(workers=2)


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    arguments.add_argument("--network", default="resnet18")
    arguments.add_argument("--images", type=int, default=1280)
    arguments.add_argument("--epochs", type=int, default=3)
    arguments.add_argument("--rounds", type=int, default=2)
    arguments.add_argument("--starts", type=int, default=3)
    arguments.add_argument("--tasks", type=int, default=20)
    asked = arguments.parse_args()
    found = versions()
    print(f"{device_name()}; torch {found['torch']}, ray {found['ray']}, commit {commit()}")
    lines: list[str] = []
    with tempfile.TemporaryDirectory() as folder, connected() as have:
        if asked.starts or asked.tasks:
            lines += _starts(Store(f"{folder}/starts"), have, asked.starts, asked.tasks)
        if asked.rounds:
            lines += _throughput(
                folder, have, asked.network, asked.images, asked.epochs, asked.rounds
            )
    print("\n".join(lines))


def _throughput(
    folder: str, have: ClusterResources, network: str, images: int, epochs: int, rounds: int
) -> list[str]:
    victim = _stages(network, epochs, 0)[1]
    data = ray.put(_pixels(images))
    speeds: dict[str, list[float]] = {"1 worker, 2 threads": [], "2 Ray Train workers": []}
    for turn in range(rounds):
        for name, resources in zip(speeds, (_ALONE, _TOGETHER), strict=True):
            store = Store(f"{folder}/{turn}{resources.workers}")
            stages.run_stage(victim.poison_stage, store, _digits(victim))
            _run(victim, store, data, resources, have)
            history = store.manifest("victim", victim.key)["history"]
            speeds[name] += [facts["images_per_second"] for facts in history[1:]]
    base = statistics.median(speeds["1 worker, 2 threads"])
    return [
        f"\n{network}, {images} images x {epochs} epochs, batch 128, median of the epochs after the first in {rounds} rounds",
        "| way | images/s | min - max | ratio |\n|---|---|---|---|",
        *(
            f"| {name} | {statistics.median(seen):.0f} | {min(seen):.0f} - {max(seen):.0f} | {statistics.median(seen) / base:.2f} |"
            for name, seen in speeds.items()
        ),
    ]


def _starts(store: Store, have: ClusterResources, starts: int, tasks: int) -> list[str]:
    poison, victim, *moments = _stages("small_cnn", 1, max(starts, tasks + 1))
    dataset = _digits(victim)
    for stage in (poison, victim):
        stages.run_stage(stage, store, dataset)
    data = load_dataset.remote(victim.dataset)
    ray.wait([data])
    lines = [
        "\n| a stage that does nothing | seconds to its step | from there to the end |\n|---|---|---|"
    ]
    for turn, stage in enumerate(moments[:starts]):
        before, after = _moments(stage, store, data, _TOGETHER, have)
        lines.append(f"| group of 2 workers, number {turn + 1} | {before:.2f} | {after:.2f} |")
    plain = Resources(gpus_per_worker=0)
    for stage in moments[:starts]:
        store.remove(f"artifacts/score/{stage.key}")
    _moments(moments[0], store, data, plain, have)
    took = [_moments(stage, store, data, plain, have) for stage in moments[1 : tasks + 1]]
    again = [_run(stage, store, data, plain, have) for stage in moments[1 : tasks + 1]]
    middle = [statistics.median(part) for part in zip(*took, strict=True)]
    lines.append(f"| plain task, median of {tasks} | {middle[0]:.3f} | {middle[1]:.3f} |")
    lines.append(
        f"| plain task whose stage is in the store: {statistics.median(again):.3f} in all | | |"
    )
    return lines


def _moments(
    stage: Stage, store: Store, data: Any, resources: Resources, have: ClusterResources
) -> tuple[float, float]:
    """Seconds before and after the stage's own moment."""
    began = time.time()
    _run(stage, store, data, resources, have)
    ended = time.time()
    at = store.manifest(stage.name, stage.key)["facts"]["at"]
    return at - began, ended - at


def _run(
    stage: Stage, store: Store, data: Any, resources: Resources, have: ClusterResources
) -> float:
    """Run a stage as the grid does; seconds."""
    gpus, board = gpus_per_worker(resources, have), _board()
    began = time.monotonic()
    if resources.workers > 1:
        ray.get(run_group.remote(stage, store, [data], resources, gpus, board))
    else:
        task = run_alone.options(num_cpus=resources.cpus_per_worker, num_gpus=gpus)
        ray.get(task.remote(stage, [], store, data, resources, board))
    return time.monotonic() - began


_boards: list[Any] = []


def _board() -> Any:
    if not _boards:
        _boards.append(new_status_actor())
    return _boards[0]


def _stages(network: str, epochs: int, moments: int) -> list[Stage]:
    """The benign poison, a victim, and scoring stages on it."""
    experiment = experiment_file.parse(
        {
            "name": "groups",
            "datasets": [{"kind": "digits"}],
            "attacks": [{"kind": "none"}],
            "trainers": [{"kind": "supervised", "network": network, "epochs": epochs}],
            "detectors": [
                {"kind": "benchmarks.moment", "take": take, "name": f"moment{take}"}
                for take in range(moments)
            ],
        }
    )
    cells = experiment.cells()
    return [*cells[0].stages(), *(cell.last for cell in cells[1:])]


def _digits(stage: Stage) -> Dataset:
    return cast(DatasetMethod, stage.dataset.config).load()


def _pixels(images: int) -> dict[str, Any]:
    """CIFAR-shaped random images; few test images, so that the end of the stage takes no time."""
    rng = torch.Generator().manual_seed(0)
    x_NCHW = torch.randint(0, 256, (images, 3, 32, 32), generator=rng, dtype=torch.uint8)
    train = Split(x_NCHW, torch.randint(0, 10, (images,), generator=rng))
    few = train.select(torch.arange(64))
    return pack(Dataset(tuple("0123456789"), train, few, few))


if __name__ == "__main__":
    main()
