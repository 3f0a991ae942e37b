"""Poisoning CIFAR-10: whole tensors against the field's way, one PIL image at a time, in one run.

    RAYBD_DATA=... python -m benchmarks.poisoning [--attacks badnets blended sig wanet] [--rounds 3]

`raybd` is the attack's `poison` at its default rate, and its trigger on all test images that count; `stage` is the poison stage
through the store: poison, pictures, checksums, files. The field's way, written here: every training and every test image as a PIL
image, the trigger by numpy on those that are poisoned (all test images but those of the target class), saved as PNG, as
BackdoorBench keeps them.
"""

import argparse
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

from benchmarks.rounds import alternate, show
from raybd.cells.cell import Cell
from raybd.cells.run import run_stage
from raybd.cells.stage import random_stream
from raybd.plan.file import parse
from raybd.results.store import Store
from raybd.types.data import CROSS, Dataset, Poisoned
from raybd.types.methods import Attack, AttackInput

Pixels = NDArray[np.uint8]
Wear = Callable[[Pixels, bool], Pixels]
"""(image, whether it is one of WaNet's noise images) -> the image with the trigger."""
TRAINER = {"kind": "supervised", "network": "small_cnn"}


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    arguments.add_argument("--attacks", nargs="+", default=["badnets", "blended", "sig", "wanet"])
    arguments.add_argument("--rounds", type=int, default=3)
    asked = arguments.parse_args()
    cells = {name: cell_of(name) for name in asked.attacks}
    dataset: Dataset = cast(Any, next(iter(cells.values())).dataset.config).load()
    ways: dict[str, Callable[[], object]] = {}
    for name, cell in cells.items():
        attack = cast(Attack, cell.attack.config)
        poisoned = tensors(attack, dataset)
        ways |= {
            f"{name}: raybd": partial(tensors, attack, dataset),
            f"{name}: raybd, stage": partial(stage, cell, dataset),
            f"{name}: field": partial(field, dataset, poisoned, FIELD[name](poisoned.state)),
        }
    base = {name: name.split(":")[0] + ": raybd" for name in ways}
    shown = f"CIFAR-10, {len(dataset.train)} training and {len(dataset.test)} test images"
    show(shown, alternate(ways, asked.rounds), base, "raybd")


def cell_of(attack: str) -> Cell:
    """The undefended cell of an attack on CIFAR-10, all of it but ten images."""
    datasets = [{"kind": "cifar10", "clean": 10}]
    return parse(
        {
            "name": "poisoning",
            "datasets": datasets,
            "attacks": [{"kind": attack}],
            "trainers": [TRAINER],
        }
    ).cells()[0]


def tensors(attack: Attack, dataset: Dataset) -> Poisoned:
    """raybd's way: the poison, and the trigger on the test images."""
    given = AttackInput(train=dataset.train, num_classes=dataset.num_classes)
    poisoned = attack.poison(given, random_stream("poison", 0))
    counted = dataset.test.select(poisoned.labels.counted(dataset.test.y_N))
    poisoned.with_trigger(counted.x_NCHW, counted.y_N, dataset.num_classes)
    return poisoned


def stage(cell: Cell, dataset: Dataset) -> None:
    """The poison stage of a cell, into an empty store."""
    with TemporaryDirectory() as folder:
        run_stage(cell.victim.poison_stage, Store(folder), dataset)


def field(dataset: Dataset, poisoned: Poisoned, wear: Wear) -> None:
    """The field's way, for the same images."""
    role_of = dict(zip(poisoned.index_M.tolist(), poisoned.role_M.tolist(), strict=True))
    counted = set(torch.nonzero(poisoned.labels.counted(dataset.test.y_N)).flatten().tolist())
    with TemporaryDirectory() as folder:
        for part, split in (("train", dataset.train), ("test", dataset.test)):
            (Path(folder) / part).mkdir()
            x_NHWC = split.x_NCHW.permute(0, 2, 3, 1).numpy()
            for index in range(len(split)):
                image = Image.fromarray(np.ascontiguousarray(x_NHWC[index]))
                if part == "train" and index in role_of:
                    worn = wear(np.array(image), role_of[index] == CROSS)
                elif part == "test" and index in counted:
                    worn = wear(np.array(image), False)
                else:
                    continue
                Image.fromarray(worn).save(Path(folder) / part / f"{index}.png")


def patched(state: Mapping[str, torch.Tensor]) -> Wear:
    """BadNets."""

    def wear(x_HWC: Pixels, noisy: bool) -> Pixels:
        x_HWC[-3:, -3:] = 255
        return x_HWC

    return wear


def blended(state: Mapping[str, torch.Tensor]) -> Wear:
    """Blended."""
    pattern_HWC = state["pattern_CHW"].permute(1, 2, 0).numpy()
    return lambda x_HWC, noisy: (0.8 * x_HWC + 0.2 * pattern_HWC).clip(0, 255).astype(np.uint8)


def waved(state: Mapping[str, torch.Tensor]) -> Wear:
    """SIG."""
    wave_W1 = 40 * np.sin(2 * np.pi * 6 * np.arange(32) / 32)[:, None]
    return lambda x_HWC, noisy: (x_HWC + wave_W1).clip(0, 255).astype(np.uint8)


def warped(state: Mapping[str, torch.Tensor]) -> Wear:
    """WaNet, and its noise images; PIL and numpy can't warp, so the authors' own call does, for one image."""
    grid_1HW2 = state["grid_HW2"][None]

    def wear(x_HWC: Pixels, noisy: bool) -> Pixels:
        noise_1HW2 = (2 * torch.rand(grid_1HW2.shape) - 1) / 32 if noisy else 0.0
        x_1CHW = torch.from_numpy(x_HWC).permute(2, 0, 1)[None].float()
        worn_1CHW = F.grid_sample(x_1CHW, (grid_1HW2 + noise_1HW2).clamp(-1, 1), align_corners=True)
        return cast(Pixels, worn_1CHW[0].permute(1, 2, 0).round().clamp(0, 255).byte().numpy())

    return wear


FIELD: dict[str, Callable[[Mapping[str, torch.Tensor]], Wear]] = {
    "badnets": patched,
    "blended": blended,
    "sig": waved,
    "wanet": warped,
}


if __name__ == "__main__":
    main()
