"""Peak memory of each stage of a cell on as many images as Tiny ImageNet has, through the real stages in one process.

    python -m benchmarks.memory [--images 100000] [--side 64] [--attack blended] [--detectors spectral asset_inner]

Random images, 200 classes; 10 % are poisoned, a tiny network is trained for one epoch, the detectors score the training set, what
they flag is dropped and the network is trained again. A stage's peak is what its row says: the largest resident memory of the
process since the stage began, the data set in it. Bar: 6 GiB.
"""

import argparse
from collections.abc import Sequence
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.rounds import where
from raybd.cells.run import run_stage
from raybd.cells.stage import Stage
from raybd.plan.file import parse
from raybd.results.provenance import peak_memory_bytes
from raybd.results.store import Store
from raybd.types.data import Dataset, Split

CLASSES = 200


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    arguments.add_argument("--images", type=int, default=100_000)
    arguments.add_argument("--side", type=int, default=64)
    arguments.add_argument("--attack", default="blended")
    arguments.add_argument("--detectors", nargs="+", default=["spectral", "asset_inner"])
    asked = arguments.parse_args()
    rng = torch.Generator().manual_seed(0)
    train, clean, test = (
        pictures(n, asked.side, rng) for n in (asked.images, asked.images // 20, asked.images // 10)
    )
    dataset = Dataset(tuple(str(label) for label in range(CLASSES)), train, clean, test)
    held = sum(part.x_NCHW.numel() for part in (train, clean, test))
    print(
        f"{asked.images} training images of {asked.side} x {asked.side}; the data set is {held / 2**30:.2f} GiB"
    )
    print(where())
    print(
        f"| stage | method | s | peak, GiB |\n|---|---|---|---|\n| data set | | | {peak_memory_bytes() / 2**30:.2f} |"
    )
    with TemporaryDirectory() as folder:
        store = Store(folder)
        for stage in stages(asked.attack, asked.detectors):
            run_stage(stage, store, dataset)
            said = store.manifest(stage.name, stage.key)
            print(
                f"| {stage.name} | {stage.method.name} | {said['seconds']:.1f} | {said['peak_memory_bytes'] / 2**30:.2f} |",
                flush=True,
            )


def pictures(n: int, side: int, rng: torch.Generator) -> Split:
    """Images and labels without meaning."""
    x_NCHW = torch.randint(0, 256, (n, 3, side, side), generator=rng, dtype=torch.uint8)
    return Split(x_NCHW, torch.randint(0, CLASSES, (n,), generator=rng))


def stages(attack: str, detectors: Sequence[str]) -> list[Stage]:
    """The stages of all cells, in order. What the data set is called plays no part here: the images are given."""
    file: dict[str, Any] = {
        "name": "memory",
        "datasets": [{"kind": "digits"}],
        "attacks": [{"kind": attack, "rate": 0.1}],
        "trainers": [
            {"kind": "supervised", "network": {"kind": "small_cnn", "width": 8}, "epochs": 1}
        ],
        "detectors": [{"kind": kind} for kind in detectors],
        "removal": True,
    }
    return list(
        {stage.key: stage for cell in parse(file).cells() for stage in cell.stages()}.values()
    )


if __name__ == "__main__":
    main()
