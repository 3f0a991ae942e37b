"""Four detectors on one victim: with its embeddings from the store, and without.

    python -m benchmarks.features [--network resnet18] [--images 2000] [--rounds 3]

Times are those of the stages after the victim: `features` and four times `score`, or four times
`score`. The scores of the two ways are compared, too.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch

from benchmarks.rounds import alternate, arguments_of, show
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
    arguments = arguments_of(__doc__)
    arguments.add_argument("--network", default="resnet18")
    arguments.add_argument("--images", type=int, default=2000)
    arguments.add_argument("--rounds", type=int, default=3)
    asked = arguments.parse_args()

    dataset = random_dataset(asked.images)
    shared = score_stages(asked.network)
    # Without the stage `features` each detector embeds the images itself.
    alone = [replace(stage, features=None) for stage in shared]
    with TemporaryDirectory() as folder:
        store = Store(folder)
        for stage in shared[0].victim.path():
            run_stage(stage, store, dataset)

        once = [cast(Stage, shared[0].features), *shared]
        ways = {
            "each for itself": partial(run_again, alone, store, dataset),
            "from the store": partial(run_again, once, store, dataset),
        }
        taken = alternate(ways, asked.rounds)
        scores_alone = scores(alone, store)
        scores_shared = scores(shared, store)

    title = f"{len(DETECTORS)} detectors on one {asked.network}, {asked.images} images of 32 x 32"
    show(title, taken, dict.fromkeys(taken, "each for itself"), "each for itself")
    print(f"scores equal to the bit: {all(map(torch.equal, scores_alone, scores_shared))}")


def random_dataset(images: int) -> Dataset:
    """Return random images and labels."""
    rng = torch.Generator().manual_seed(0)
    train, clean, test = (pictures(n, rng) for n in (images, images // 20, 100))
    return Dataset(tuple(str(label) for label in range(CLASSES)), train, clean, test)


def pictures(n: int, rng: torch.Generator) -> Split:
    """Return random images and labels."""
    x_NCHW = torch.randint(0, 256, (n, 3, 32, 32), generator=rng, dtype=torch.uint8)
    return Split(x_NCHW, torch.randint(0, CLASSES, (n,), generator=rng))


def score_stages(network: str) -> list[Score]:
    """Return the stages of the detectors on one victim; they share the features."""
    file = {
        "name": "features",
        "datasets": [{"kind": "digits"}],
        "attacks": [{"kind": "badnets"}],
        "trainers": [{"kind": "supervised", "network": network, "epochs": 1}],
        "detectors": DETECTORS,
        "removal": False,
    }
    return [cast(Score, cell.last) for cell in parse(file).cells() if cell.defense]


def run_again(stages: Sequence[Stage], store: Store, dataset: Dataset) -> None:
    """Run these stages, also if they are in the store."""
    # All are removed first: the scores depend on the features.
    for stage in stages:
        store.remove(f"artifacts/{stage.name}/{stage.key}")
    for stage in stages:
        run_stage(stage, store, dataset)


def scores(stages: Sequence[Score], store: Store) -> list[torch.Tensor]:
    """Return the stored scores of each stage."""
    return [store.load("score", stage.key).tensors["score_N"] for stage in stages]


if __name__ == "__main__":
    main()
