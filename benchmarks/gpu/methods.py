"""Rows of methods: SimCLR, ASSET, CBD, DeDe, Neural Cleanse, STRIP, and two GPUs."""

from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.gpu.machine import exchange
from benchmarks.gpu.rows import Measured, Row, Skipped
from benchmarks.gpu.sizes import CLASSES, Sizes, images
from benchmarks.gpu.trainings import network_of, per_second, victim_of
from benchmarks.rounds import timed


def rows(sizes: Sizes) -> Iterator[Row]:
    """Yield the rows of methods."""
    yield Row(f"strip, {sizes.network}", partial(_strip, sizes))
    yield Row(f"neural_cleanse, {sizes.network}", partial(_neural_cleanse, sizes))
    yield Row(f"asset, {sizes.network}", partial(_asset, sizes))
    yield Row(f"cbd, {sizes.network}", partial(_cbd, sizes))
    yield Row(f"dede, {sizes.network}", partial(_dede, sizes))
    yield Row(f"simclr, {sizes.network}", partial(_simclr, sizes))
    yield Row("all-reduce between two GPUs", partial(_nccl, sizes))


def _rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _strip(sizes: Sizes) -> Measured:
    from raybd.detectors.strip import Strip

    strip = Strip()
    score = strip.learn(victim_of(sizes), images(sizes.clean, "clean"), _rng())
    inputs = images(sizes.inputs, "test")
    seconds = timed(lambda: score(inputs)).clock
    note = f"per input, {strip.overlays} overlays"
    return Measured(1000 * seconds / sizes.inputs, "ms", note)


def _neural_cleanse(sizes: Sizes) -> Measured:
    from raybd.scanners.neural_cleanse import NeuralCleanse

    whole = NeuralCleanse()
    # No class ends early: of a victim with first weights, none has found a trigger.
    scan = whole.model_copy(update={"rounds": sizes.rounds})
    victim, clean = victim_of(sizes), images(sizes.clean, "clean")
    seconds = timed(lambda: scan.scan(victim, clean, _rng())).clock
    note = f"at most, extrapolated from {sizes.rounds} to {whole.rounds} rounds: {CLASSES} classes"
    return Measured(seconds / sizes.rounds * whole.rounds, "s", note)


def _asset(sizes: Sizes) -> Measured:
    from raybd.detectors.asset import Asset

    asset = Asset()
    suspects, clean = images(sizes.few), images(sizes.clean, "clean")
    victim = victim_of(sizes)
    seconds = timed(lambda: asset.score(victim, suspects, clean, _rng())).clock
    return Measured(seconds, "s", f"{len(suspects)} suspects, {len(clean)} trusted images, whole")


def _cbd(sizes: Sizes) -> Measured:
    from raybd.training_defenses.cbd import CBD

    split, clean = images(sizes.few), images(sizes.clean, "clean")
    whole = CBD()
    fields = {"first_steps": sizes.cbd_steps, "epochs": sizes.epochs, "on_guard": "warn"}
    few = whole.model_copy(update=fields)
    network = network_of(sizes.network)
    seconds = timed(lambda: few.defend(split, CLASSES, network, clean, _rng())).clock
    batch = min(few.batch_size, len(split))
    first = -(-sizes.cbd_steps // (len(split) // batch)) * (len(split) // batch)
    steps = first + sizes.epochs * (len(split) // batch)
    # A step of either network counts the same; the second one's also asks the first.
    return Measured(batch * steps / seconds, "images/s", f"both networks, batch {batch}")


def _dede(sizes: Sizes) -> Measured:
    from raybd.detectors.dede import DeDe

    split = images(sizes.few)
    dede = DeDe(epochs=sizes.epochs)
    victim = victim_of(sizes)
    count = len(split) * dede.epochs
    note = f"decoder, {len(split)} images, with their embeddings"
    return per_second(lambda: dede.painter(victim, split, _rng()), count, "images/s", note)


def _simclr(sizes: Sizes) -> Measured:
    from raybd.trainers.self_supervised.simclr import SimCLR

    split = images(sizes.few)
    simclr = SimCLR(epochs=sizes.epochs, batch_size=sizes.batch)
    network = network_of(sizes.network)
    count = len(split) // sizes.batch * sizes.batch * sizes.epochs
    note = f"two views of each, batch {sizes.batch}"
    return per_second(
        lambda: simclr.train(split, CLASSES, network, _rng()), count, "images/s", note
    )


def _nccl(sizes: Sizes) -> Measured:
    if torch.cuda.device_count() < 2:
        raise Skipped(f"this machine has {torch.cuda.device_count()} GPUs")
    speed = exchange("nccl", 2, sizes.numbers)
    return Measured(speed, "GB/s", f"messages of {4 * sizes.numbers / 2**20:.0f} MiB")
