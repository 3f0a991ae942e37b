"""Detectors against the forward pass that they need at least.

    python -m benchmarks.detectors [--network small_cnn] [--images 50000] [--inputs 1000]
                                   [--overlays 50] [--rounds 3]

`infer` is `training.inference.infer` alone, over the same images. A detector of the training set
may take 1.3 times as long. STRIP scores `--inputs` images and may take 1.3 times as long as its own
forward passes: images times overlays, including those for the threshold.
"""

from functools import partial
from typing import cast

import torch

from benchmarks.rounds import Ways, alternate, arguments_of, show
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

CLASSES = 10
TRUSTED_IMAGES = 2500
OF_TRAINING_SET: dict[str, Detector] = {
    "spectral": Spectral(),
    "spectral, trusted": Spectral(reference="trusted"),
    "activation_clustering": ActivationClustering(),
    "activation_clustering, fewer_clean": ActivationClustering(suspect="fewer_clean"),
}


def main() -> None:
    arguments = arguments_of(__doc__)
    arguments.add_argument("--network", default="small_cnn")
    arguments.add_argument("--images", type=int, default=50_000)
    arguments.add_argument("--inputs", type=int, default=1000)
    arguments.add_argument("--overlays", type=int, default=50)
    arguments.add_argument("--rounds", type=int, default=3)
    asked = arguments.parse_args()

    rng = torch.Generator().manual_seed(0)
    suspects = pictures(asked.images, rng)
    clean = pictures(TRUSTED_IMAGES, rng)
    network = cast(Network, method_class("networks", asked.network)())
    victim = new_victim(suspects, CLASSES, network, rng)
    warm_up(victim, clean)

    of_set = ways_of_training_set(victim, suspects, clean)
    of_inputs = ways_of_inputs(victim, suspects, clean, asked.inputs, asked.overlays)
    base = {name: next(iter(ways)) for ways in (of_set, of_inputs) for name in ways}
    show(
        f"{asked.network}, {asked.images} images of 32 x 32; strip: {asked.inputs} images",
        alternate({**of_set, **of_inputs}, asked.rounds),
        base,
        "its forward pass",
    )


def warm_up(victim: Victim, clean: Split) -> None:
    """Run each detector on a few images, so that imports and first calls are not measured."""
    suspects = clean.select(torch.arange(500))
    trusted = clean.select(torch.arange(500, 600))
    for detector in (*OF_TRAINING_SET.values(), Strip(overlays=2)):
        score(detector, victim, suspects, trusted)


def ways_of_training_set(victim: Victim, suspects: Split, clean: Split) -> Ways:
    """Return the forward pass over the training set, and the detectors of it."""
    return {
        "infer": lambda: infer(victim, suspects.x_NCHW, victim.embed),
        **{
            name: partial(score, detector, victim, suspects, clean)
            for name, detector in OF_TRAINING_SET.items()
        },
    }


def ways_of_inputs(
    victim: Victim, suspects: Split, clean: Split, inputs: int, overlays: int
) -> Ways:
    """Return the forward passes that STRIP needs, and STRIP."""
    few = suspects.select(torch.arange(inputs))
    # STRIP halves what it trusts: overlays, and as many images for its threshold.
    trusted = clean.select(torch.arange(2 * overlays))
    blends = (inputs + overlays) * overlays
    return {
        # In bf16, as STRIP itself: else the limit would be above what is measured.
        f"infer, {blends} blends, bf16": lambda: forward_passes(victim, few.x_NCHW, blends),
        "strip": partial(score, Strip(overlays=overlays), victim, few, trusted),
    }


def pictures(n: int, rng: torch.Generator) -> Split:
    """Return random images; those of a class share a coarse pattern."""
    y_N = torch.randint(0, CLASSES, (n,), generator=rng)
    # A seed of its own: suspects and trusted images of a class have the same pattern.
    same_rng = torch.Generator().manual_seed(1)
    coarse_KCHW = torch.randint(0, 128, (CLASSES, 3, 4, 4), generator=same_rng, dtype=torch.uint8)
    pattern_KCHW = coarse_KCHW.repeat_interleave(8, 2).repeat_interleave(8, 3)
    # Noise and pattern are below 128, so that their sum fits into uint8.
    noise_NCHW = torch.randint(0, 128, (n, 3, 32, 32), generator=rng, dtype=torch.uint8)
    return Split(noise_NCHW + pattern_KCHW[y_N], y_N)


def score(detector: Detector, victim: Victim, suspects: Split, clean: Split) -> Suspicion:
    """Run the whole detector."""
    # A new generator: each round does the same work.
    return detector.score(victim, suspects, clean, torch.Generator().manual_seed(0))


def forward_passes(victim: Victim, x_NCHW: torch.Tensor, count: int) -> None:
    """Run forward passes only, over `count` images in all."""
    # The same images again and again: only the number of forward passes counts.
    for _ in range(count // len(x_NCHW)):
        infer(victim, x_NCHW, exact=False)
    infer(victim, x_NCHW[: count % len(x_NCHW)], exact=False)


if __name__ == "__main__":
    main()
