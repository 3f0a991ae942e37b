"""Four detectors on one victim: with its embeddings from the store, and with each computing them itself, in one run.

    python -m benchmarks.features [--network resnet18] [--images 2000] [--rounds 3]

Times are those of the stages beyond the victim: `features` and four times `score`, or four times `score`. Scores are compared, too.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch

from benchmarks.rounds import alternate, show
from raybd.cells.run import run_stage
from raybd.cells.stage import Stage
from raybd.plan.file import parse
from raybd.results.store import Store
from raybd.stages.score import Score
from raybd.types.data import Dataset, Split

DETECTORS: list[dict[str, Any]] = [
    {"kind": "spectral"},
    {"kind": "spectral", "name": "spectral_trusted", "reference": "trusted"},
    {"kind": "activation_clustering"},
    {"kind": "asset_inner"},
]
CLASSES = 10


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    arguments.add_argument("--network", default="resnet18")
    arguments.add_argument("--images", type=int, default=2000)
    arguments.add_argument("--rounds", type=int, default=3)
    asked = arguments.parse_args()
    rng = torch.Generator().manual_seed(0)
    train, clean, test = (pictures(n, rng) for n in (asked.images, asked.images // 20, 100))
    dataset = Dataset(tuple(str(label) for label in range(CLASSES)), train, clean, test)
    trainer = {"kind": "supervised", "network": asked.network, "epochs": 1}
    file = {
        "name": "features",
        "datasets": [{"kind": "digits"}],
        "attacks": [{"kind": "badnets"}],
        "trainers": [trainer],
    }
    shared = [
        cast(Score, cell.last)
        for cell in parse({**file, "detectors": DETECTORS, "removal": False}).cells()
        if cell.defense
    ]
    alone = [replace(stage, features=None) for stage in shared]
    with TemporaryDirectory() as folder:
        store = Store(folder)
        for stage in shared[0].victim.path():
            run_stage(stage, store, dataset)
        once = [cast(Stage, shared[0].features), *shared]
        taken = alternate(
            {
                "each for itself": partial(anew, alone, store, dataset),
                "from the store": partial(anew, once, store, dataset),
            },
            asked.rounds,
        )
        both = [
            [store.load("score", stage.key).tensors["score_N"] for stage in stages]
            for stages in (alone, shared)
        ]
    base = dict.fromkeys(taken, "each for itself")
    show(
        f"{len(DETECTORS)} detectors on one {asked.network}, {asked.images} images of 32 x 32",
        taken,
        base,
        "each for itself",
    )
    print(f"scores equal to the bit: {all(map(torch.equal, *both))}")


def pictures(n: int, rng: torch.Generator) -> Split:
    """Images and labels without meaning."""
    x_NCHW = torch.randint(0, 256, (n, 3, 32, 32), generator=rng, dtype=torch.uint8)
    return Split(x_NCHW, torch.randint(0, CLASSES, (n,), generator=rng))


def anew(stages: Sequence[Stage], store: Store, dataset: Dataset) -> None:
    """Run these stages, whatever is in the store."""
    for stage in stages:
        store.remove(f"artifacts/{stage.name}/{stage.key}")
    for stage in stages:
        run_stage(stage, store, dataset)


if __name__ == "__main__":
    main()
