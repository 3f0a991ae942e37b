"""Peak memory of each stage of a cell on as many images as Tiny ImageNet has, in one process.

    python -m benchmarks.memory [--images 100000] [--side 64] [--attack blended]
                                [--detectors spectral asset_inner]

Random images of 200 classes. 10 % are poisoned, a tiny network is trained for one epoch, the
detectors score the training set, what they flag is dropped, and the network is trained again. The
peak of a stage is the number in its row: the largest resident memory of the process since the stage
began, including the data set. Target: 6 GiB.
"""

from collections.abc import Sequence
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.rounds import arguments_of, print_header, print_row, where
from raybd.cells.run import run_stage
from raybd.cells.stage import Stage
from raybd.plan.file import parse
from raybd.results.provenance import peak_memory_bytes
from raybd.results.store import Store
from raybd.types.data import Dataset, Split

CLASSES = 200
GIB = 2**30


def main() -> None:
    arguments = arguments_of(__doc__)
    arguments.add_argument("--images", type=int, default=100_000)
    arguments.add_argument("--side", type=int, default=64)
    arguments.add_argument("--attack", default="blended")
    arguments.add_argument("--detectors", nargs="+", default=["spectral", "asset_inner"])
    asked = arguments.parse_args()

    dataset = random_dataset(asked.images, asked.side)
    parts = (dataset.train, dataset.clean, dataset.test)
    size = sum(part.x_NCHW.numel() for part in parts) / GIB
    images = f"{asked.images} training images of {asked.side} x {asked.side}"
    print(f"{images}; the data set has {size:.2f} GiB")
    print(where())

    print_header("stage", "method", "s", "peak, GiB")
    # Before any stage: the images and torch itself.
    print_row("data set", "", "", f"{peak_memory_bytes() / GIB:.2f}")
    with TemporaryDirectory() as folder:
        store = Store(folder)
        # In one process, as Ray's workers, which are reused: a stage inherits what others left.
        for stage in stages(asked.attack, asked.detectors):
            run_stage(stage, store, dataset)
            facts = store.manifest(stage.name, stage.key)
            seconds = f"{facts['seconds']:.1f}"
            peak = f"{facts['peak_memory_bytes'] / GIB:.2f}"
            print_row(stage.name, stage.method.name, seconds, peak)


def random_dataset(images: int, side: int) -> Dataset:
    """Return random images and labels."""
    rng = torch.Generator().manual_seed(0)
    sizes = (images, images // 20, images // 10)
    train, clean, test = (pictures(n, side, rng) for n in sizes)
    return Dataset(tuple(str(label) for label in range(CLASSES)), train, clean, test)


def pictures(n: int, side: int, rng: torch.Generator) -> Split:
    """Return random images and labels."""
    x_NCHW = torch.randint(0, 256, (n, 3, side, side), generator=rng, dtype=torch.uint8)
    return Split(x_NCHW, torch.randint(0, CLASSES, (n,), generator=rng))


def stages(attack: str, detectors: Sequence[str]) -> list[Stage]:
    """Return the stages of all cells, in order.

    The name of the data set has no effect: `run_stage` is given the images.
    """
    # Tiny: what is measured is what grows with the images, not the network's activations.
    network = {"kind": "small_cnn", "width": 8}
    file: dict[str, Any] = {
        "name": "memory",
        "datasets": [{"kind": "digits"}],
        "attacks": [{"kind": attack, "rate": 0.1}],
        "trainers": [{"kind": "supervised", "network": network, "epochs": 1}],
        "detectors": [{"kind": kind} for kind in detectors],
        "removal": True,
    }
    # Cells share stages: each is run once.
    found = {stage.key: stage for cell in parse(file).cells() for stage in cell.stages()}
    return list(found.values())


if __name__ == "__main__":
    main()
