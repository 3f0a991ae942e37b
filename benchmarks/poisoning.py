"""Poisoning CIFAR-10: whole tensors, and one PIL image at a time as in other toolboxes.

    RAYBD_DATA=... python -m benchmarks.poisoning [--attacks badnets blended sig wanet] [--rounds 3]

`raybd` is the attack's `poison` at its default rate, and its trigger on all test images that count.
`stage` is the poison stage through the store: poison, pictures, checksums, files. `field` is
written below: every training and test image as a PIL image, the trigger by numpy on those that are
poisoned (all test images except those of the target class), saved as PNG, as BackdoorBench does.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from benchmarks.rounds import alternate, arguments_of, show
from raybd.cells.cell import Cell
from raybd.cells.run import run_stage
from raybd.cells.stage import random_stream
from raybd.plan.file import parse
from raybd.results.store import Store
from raybd.types.data import CROSS, Dataset, Poisoned, Split
from raybd.types.methods import Attack, AttackInput

Pixels = NDArray[np.uint8]
Stamp = Callable[[Pixels, bool], Pixels]
"""(image, whether it is one of WaNet's noise images) -> the image with the trigger."""


def main() -> None:
    arguments = arguments_of(__doc__)
    arguments.add_argument("--attacks", nargs="+", default=list(STAMPS))
    arguments.add_argument("--rounds", type=int, default=3)
    asked = arguments.parse_args()

    cells = {name: cell_of(name) for name in asked.attacks}
    dataset: Dataset = cast(Any, next(iter(cells.values())).dataset.config).load()
    ways: dict[str, Callable[[], object]] = {}
    for name, cell in cells.items():
        attack = cast(Attack, cell.attack.config)
        # Both ways poison the same images with the same trigger: the state holds what was drawn.
        poisoned = tensors(attack, dataset)
        stamp = STAMPS[name](poisoned.state)
        ways[f"{name}: raybd"] = partial(tensors, attack, dataset)
        ways[f"{name}: raybd, stage"] = partial(stage, cell, dataset)
        ways[f"{name}: field"] = partial(field, dataset, poisoned, stamp)

    base = {name: name.split(":")[0] + ": raybd" for name in ways}
    title = f"CIFAR-10, {len(dataset.train)} training and {len(dataset.test)} test images"
    show(title, alternate(ways, asked.rounds), base, "raybd")


def cell_of(attack: str) -> Cell:
    """Return the undefended cell of an attack on all of CIFAR-10 except ten images."""
    file = {
        "name": "poisoning",
        "datasets": [{"kind": "cifar10", "clean": 10}],
        "attacks": [{"kind": attack}],
        "trainers": [{"kind": "supervised", "network": "small_cnn"}],
    }
    return parse(file).cells()[0]


def tensors(attack: Attack, dataset: Dataset) -> Poisoned:
    """Poison as raybd does, and stamp the test images."""
    given = AttackInput(train=dataset.train, num_classes=dataset.num_classes)
    poisoned = attack.poison(given, random_stream("poison", 0))
    # Images of the target class have no success to measure.
    counted = dataset.test.select(poisoned.labels.counted(dataset.test.y_N))
    poisoned.with_trigger(counted.x_NCHW, counted.y_N, dataset.num_classes)
    return poisoned


def stage(cell: Cell, dataset: Dataset) -> None:
    """Run the poison stage of a cell, into an empty store."""
    # An empty store: a stage that is there would not be run.
    with TemporaryDirectory() as folder:
        run_stage(cell.victim.poison_stage, Store(folder), dataset)


def field(dataset: Dataset, poisoned: Poisoned, stamp: Stamp) -> None:
    """Poison the same images one at a time."""
    role_of = dict(zip(poisoned.index_M.tolist(), poisoned.role_M.tolist(), strict=True))
    noisy = {index: role == CROSS for index, role in role_of.items()}
    counted = torch.nonzero(poisoned.labels.counted(dataset.test.y_N)).flatten().tolist()
    with TemporaryDirectory() as folder:
        save_stamped(dataset.train, noisy, stamp, Path(folder) / "train")
        save_stamped(dataset.test, dict.fromkeys(counted, False), stamp, Path(folder) / "test")


def save_stamped(split: Split, noisy: Mapping[int, bool], stamp: Stamp, folder: Path) -> None:
    """Save these rows with the trigger; other rows only become PIL images."""
    folder.mkdir()
    x_NHWC = split.x_NCHW.permute(0, 2, 3, 1).numpy()
    for index in range(len(split)):
        image = Image.fromarray(np.ascontiguousarray(x_NHWC[index]))
        if index in noisy:
            # np.array copies: BadNets writes into what it is given.
            stamped = stamp(np.array(image), noisy[index])
            Image.fromarray(stamped).save(folder / f"{index}.png")


def badnets(state: Mapping[str, torch.Tensor]) -> Stamp:
    """Return the stamp of BadNets."""

    def stamp(x_HWC: Pixels, noisy: bool) -> Pixels:
        # This stamp and those below have the defaults of raybd's attacks.
        x_HWC[-3:, -3:] = 255
        return x_HWC

    return stamp


def blended(state: Mapping[str, torch.Tensor]) -> Stamp:
    """Return the stamp of Blended."""
    pattern_HWC = state["pattern_CHW"].permute(1, 2, 0).numpy()

    def stamp(x_HWC: Pixels, noisy: bool) -> Pixels:
        return cast(Pixels, (0.8 * x_HWC + 0.2 * pattern_HWC).clip(0, 255).astype(np.uint8))

    return stamp


def sig(state: Mapping[str, torch.Tensor]) -> Stamp:
    """Return the stamp of SIG."""
    wave_W1 = 40 * np.sin(2 * np.pi * 6 * np.arange(32) / 32)[:, None]

    def stamp(x_HWC: Pixels, noisy: bool) -> Pixels:
        return cast(Pixels, (x_HWC + wave_W1).clip(0, 255).astype(np.uint8))

    return stamp


def wanet(state: Mapping[str, torch.Tensor]) -> Stamp:
    """Return the stamp of WaNet, which also makes its noise images.

    PIL and numpy cannot warp, so this calls what the authors call, for one image.
    """
    grid_1HW2 = state["grid_HW2"][None]

    def stamp(x_HWC: Pixels, noisy: bool) -> Pixels:
        # Noise of up to half a pixel: grid_sample's coordinates span 2 for 32 pixels.
        noise_1HW2 = (2 * torch.rand(grid_1HW2.shape) - 1) / 32 if noisy else 0.0
        x_1CHW = torch.from_numpy(x_HWC).permute(2, 0, 1)[None].float()
        warped_1HW2 = (grid_1HW2 + noise_1HW2).clamp(-1, 1)
        stamped_1CHW = F.grid_sample(x_1CHW, warped_1HW2, align_corners=True)
        stamped_HWC = stamped_1CHW[0].permute(1, 2, 0).round().clamp(0, 255).byte()
        return cast(Pixels, stamped_HWC.numpy())

    return stamp


STAMPS: dict[str, Callable[[Mapping[str, torch.Tensor]], Stamp]] = {
    "badnets": badnets,
    "blended": blended,
    "sig": sig,
    "wanet": wanet,
}


if __name__ == "__main__":
    main()
