"""Rows of trainings: speed, whole victims, small victims side by side, evaluation."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import cast

import torch

from benchmarks.gpu.rows import Measured, Row, Skipped
from benchmarks.gpu.sizes import CLASSES, Sizes, images, real
from benchmarks.rounds import timed
from raybd.registry import method_class
from raybd.trainers.supervised import Supervised
from raybd.training.inference import infer
from raybd.training.models import new_victim
from raybd.training.recipe import Recipe
from raybd.types.models import Network, Victim

EPOCHS_OF_A_VICTIM = 100
FAST = Supervised(
    epochs=24,
    batch_size=512,
    lr=0.4,
    warmup=0.2,
    schedule="linear",
    label_smoothing=0.1,
    ema=0.99,
    decay_norms=False,
)
"""The recipe of configs/cifar10_fast.yaml; a test compares them."""


def rows(sizes: Sizes) -> Iterator[Row]:
    """Yield the rows of trainings."""
    for network in sizes.networks:
        for way in ("field", "limit", "raybd", "raybd_compiled"):
            yield Row(f"train {network}, {_TITLES[way]}", partial(_speed, sizes, network, way))
    yield Row(f"evaluate {sizes.network}", partial(_evaluation, sizes))
    yield Row(f"victim by the fast recipe, {sizes.network}", partial(_fast, sizes))
    yield Row(f"victim by the standard recipe, {sizes.network}", partial(_standard, sizes))
    for at_once in sizes.packed:
        yield Row(f"{sizes.small_network}, {at_once} at once", partial(_packed, sizes, at_once))


_TITLES = {
    "field": "the field's way",
    "limit": "bare steps",
    "raybd": "raybd",
    "raybd_compiled": "raybd, compiled",
}


def network_of(name: str) -> Network:
    """Return a network with its defaults."""
    return cast(Network, method_class("networks", name)())


def victim_of(sizes: Sizes) -> Victim:
    """Return a victim with first weights: what it predicts does not change what it costs."""
    rng = torch.Generator().manual_seed(0)
    return new_victim(images(sizes.few), CLASSES, network_of(sizes.network), rng)


def _speed(sizes: Sizes, network: str, way: str) -> Measured:
    # torchvision, which only the field's way and this module need.
    from benchmarks import training

    if way == "raybd_compiled" and not torch.cuda.is_available():
        raise Skipped("torch.compile was slower on a CPU: see RESULTS.md")
    split = images(sizes.images)
    recipe = Recipe(epochs=sizes.epochs, batch_size=sizes.batch)
    work = cast(training.Way, getattr(training, way))
    few = split.select(torch.arange(min(len(split), 4 * sizes.batch)))
    # Kernels are chosen, and loaders started, before the clock starts.
    work(few, network_of(network), recipe.model_copy(update={"epochs": 1}), 0)
    seconds, _ = work(split, network_of(network), recipe, 0)
    count = len(split) // sizes.batch * sizes.batch * sizes.epochs
    return Measured(count / seconds, "images/s", f"batch {sizes.batch}, {sizes.epochs} epochs")


def _evaluation(sizes: Sizes) -> Measured:
    victim = victim_of(sizes)
    x_NCHW = images(sizes.test, "test").x_NCHW
    return per_second(lambda: infer(victim, x_NCHW), len(x_NCHW), "images/s", "fp32, as a row has")


def per_second(work: Callable[[], object], count: int, unit: str, note: str = "") -> Measured:
    """Measure a piece of work that does `count` things, after it was done once."""
    work()
    return Measured(count / timed(work).clock, unit, note)


def _fast(sizes: Sizes) -> Measured:
    recipe = FAST
    if sizes.fast_epochs is not None:
        recipe = FAST.model_copy(update={"epochs": sizes.fast_epochs})
    return _victim(sizes, recipe, recipe.epochs)


def _standard(sizes: Sizes) -> Measured:
    return _victim(sizes, Supervised(epochs=sizes.epochs), EPOCHS_OF_A_VICTIM)


def _victim(sizes: Sizes, trainer: Supervised, epochs: int) -> Measured:
    """Train for the epochs of the trainer, and state the time of so many."""
    split = images(sizes.images)
    rng = torch.Generator().manual_seed(0)
    found: list[Victim] = []

    def train() -> None:
        found.append(trainer.train(split, CLASSES, network_of(sizes.network), rng))

    seconds = timed(train).clock
    if trainer.epochs != epochs:
        note = f"extrapolated from {trainer.epochs} to {epochs} epochs"
        return Measured(seconds / trainer.epochs * epochs, "s", note)
    note = f"{epochs} epochs, whole"
    if real():
        test = images(sizes.test, "test")
        right_N = infer(found[0], test.x_NCHW).argmax(1) == test.y_N
        note += f"; accuracy {float(right_N.float().mean()):.4f} on {len(test)} images, one seed"
    return Measured(seconds, "s", note)


def _packed(sizes: Sizes, at_once: int) -> Measured:
    from benchmarks.packed import packed

    network, count = sizes.small_network, sizes.images
    seconds, _ = packed(at_once, sizes.cells, network, count, sizes.epochs)
    note = f"{sizes.cells} victims of {count} images x {sizes.epochs} epochs"
    return Measured(3600 * sizes.cells / seconds, "victims/h", note)
