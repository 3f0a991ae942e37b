"""Detectors against the forward pass that they can't do without, in one run.

    python -m benchmarks.detectors [--network small_cnn] [--images 50000] [--inputs 1000] [--overlays 50] [--rounds 3]

`infer` is `fit.infer` alone over the same images. A detector of the training set may take 1.3 times as long; so may STRIP, which
scores `--inputs` images, beside its own forward passes: images times overlays, those of the threshold among them.
"""

import argparse
from functools import partial
from typing import cast

import torch

from benchmarks.rounds import Ways, alternate, show
from raybd.detectors.activation_clustering import ActivationClustering
from raybd.detectors.spectral import Spectral
from raybd.detectors.strip import Strip
from raybd.registry import method_class
from raybd.training.inference import infer
from raybd.training.models import new_victim
from raybd.types.data import Split
from raybd.types.methods import Detector
from raybd.types.models import Network, Victim
from raybd.types.verdicts import Suspicion

CLASSES, CLEAN = 10, 2500


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    arguments.add_argument("--network", default="small_cnn")
    arguments.add_argument("--images", type=int, default=50_000)
    arguments.add_argument("--inputs", type=int, default=1000)
    arguments.add_argument("--overlays", type=int, default=50)
    arguments.add_argument("--rounds", type=int, default=3)
    asked = arguments.parse_args()
    rng = torch.Generator().manual_seed(0)
    suspects, clean = pictures(asked.images, rng), pictures(CLEAN, rng)
    victim = new_victim(
        suspects, CLASSES, cast(Network, method_class("networks", asked.network)()), rng
    )
    detectors: dict[str, Detector] = {
        "spectral": Spectral(),
        "spectral, trusted": Spectral(reference="trusted"),
        "activation_clustering": ActivationClustering(),
        "activation_clustering, fewer_clean": ActivationClustering(suspect="fewer_clean"),
    }
    for one in (*detectors.values(), Strip(overlays=2)):  # imports and first calls are nobody's
        score(one, victim, clean.select(torch.arange(500)), clean.select(torch.arange(500, 600)))
    few, trusted = (
        suspects.select(torch.arange(asked.inputs)),
        clean.select(torch.arange(2 * asked.overlays)),
    )
    blends = (asked.inputs + asked.overlays) * asked.overlays
    ways: Ways = {
        "infer": lambda: infer(victim, suspects.x_NCHW, victim.embed),
        **{name: partial(score, one, victim, suspects, clean) for name, one in detectors.items()},
        f"infer, {blends} blends, bf16": lambda: forwards(victim, few.x_NCHW, blends),
        "strip": partial(score, Strip(overlays=asked.overlays), victim, few, trusted),
    }
    names = list(ways)
    base = dict.fromkeys(names[:-2], names[0]) | dict.fromkeys(names[-2:], names[-2])
    taken = alternate(ways, asked.rounds)
    show(
        f"{asked.network}, {asked.images} images of 32 x 32; strip: {asked.inputs} images",
        taken,
        base,
        "its forward pass",
    )


def pictures(n: int, rng: torch.Generator) -> Split:
    """Images of classes that differ by a coarse pattern, under noise."""
    y_N = torch.randint(0, CLASSES, (n,), generator=rng)
    coarse_KCHW = torch.randint(
        0, 128, (CLASSES, 3, 4, 4), generator=torch.Generator().manual_seed(1), dtype=torch.uint8
    )
    pattern_KCHW = coarse_KCHW.repeat_interleave(8, 2).repeat_interleave(8, 3)
    noise_NCHW = torch.randint(0, 128, (n, 3, 32, 32), generator=rng, dtype=torch.uint8)
    return Split(noise_NCHW + pattern_KCHW[y_N], y_N)


def score(detector: Detector, victim: Victim, suspects: Split, clean: Split) -> Suspicion:
    """The whole detector."""
    return detector.score(victim, suspects, clean, torch.Generator().manual_seed(0))


def forwards(victim: Victim, x_NCHW: torch.Tensor, count: int) -> None:
    """Nothing but forward passes, over `count` images in all."""
    for _ in range(count // len(x_NCHW)):
        infer(victim, x_NCHW, exact=False)
    infer(victim, x_NCHW[: count % len(x_NCHW)], exact=False)


if __name__ == "__main__":
    main()
