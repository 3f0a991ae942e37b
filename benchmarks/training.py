"""Victim training: raybd's loop against the field's way and against the limit, in one run.

    python -m benchmarks.training [--network resnet18 ...] [--images 1280] [--epochs 2] [--rounds 3] [--compile]
    RAYBD_DATA=/data python -m benchmarks.training --accuracy [--network small_resnet] [--images 8000] [--epochs 8] [--batch 128]

The field's way, written here: the same network, batch, augmentation, optimiser, schedule and steps as a plain PyTorch loop in fp32
over a torchvision DataLoader of PIL images. The limit: the same network and optimiser on resident tensors, bf16 and channels_last
where the hardware has bf16, no augmentation, none of raybd's code. Rounds alternate between the ways, so that a drift of the
machine's speed hits them alike. Speed is measured on random pixels; on a GPU, the defaults are CIFAR-10's 50,000 images.

`--accuracy` trains on poisoned CIFAR-10 instead (BadNets, 10 %), and measures clean accuracy and attack success beside the speed.
"""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.transforms.functional import to_pil_image

from raybd.cells.victim_quality import measure
from raybd.datasets.cifar10 import Cifar10
from raybd.distributed.group import device
from raybd.registry import method_class
from raybd.results.provenance import commit, device_name, versions
from raybd.training.loop import fit
from raybd.training.models import new_victim
from raybd.training.precision import has_bf16
from raybd.training.recipe import Recipe
from raybd.training.runtime import Runtime, running
from raybd.types.data import Split
from raybd.types.methods import Attack, AttackInput
from raybd.types.models import Network, Victim

Way = Callable[[Split, Network, Recipe, int], tuple[float, nn.Module]]
"""(split, network, recipe, seed) -> seconds of the training, and what was trained."""

_WHOLE = 50_000 * 100
"""Images that the usual victim sees: 100 epochs of CIFAR-10."""
_FACTS = ("clean_accuracy", "attack_success")


def main() -> None:
    on_gpu = torch.cuda.is_available()
    arguments = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    arguments.add_argument(
        "--network",
        nargs="+",
        help="default: resnet18 and preact_resnet18; with --accuracy: small_resnet",
    )
    arguments.add_argument("--images", type=int)
    arguments.add_argument("--epochs", type=int)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument(
        "--compile", action="store_true", help="also raybd's loop through torch.compile"
    )
    arguments.add_argument("--accuracy", action="store_true")
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--batch", type=int, default=128)
    arguments.add_argument("--attack", default="badnets", help="with --accuracy")
    arguments.add_argument(
        "--rate",
        type=float,
        default=0.1,
        help="with --accuracy: share of the training images that is poisoned",
    )
    asked = arguments.parse_args()
    found = versions()
    print(
        f"{device_name()}, {torch.get_num_threads()} threads, {platform.system()}; torch {found['torch']}, commit {commit()}"
    )
    ways: dict[str, Way] = {"field": field, "raybd": raybd, "limit": limit}
    ways |= {"raybd, compiled": raybd_compiled} if asked.compile else {}
    if asked.accuracy:
        recipe = Recipe(
            epochs=asked.epochs or 8, batch_size=asked.batch, lr=0.1, warmup=0.2, augment="flip"
        )
        attack = cast(
            Attack, method_class("attacks", asked.attack).model_validate({"rate": asked.rate})
        )
        for name in asked.network or ["small_resnet"]:
            _compare_accuracy(
                name, attack, ways, asked.images or (None if on_gpu else 8000), recipe, asked.seeds
            )
    else:
        recipe = Recipe(epochs=asked.epochs or 2, batch_size=asked.batch)
        for name in asked.network or ["resnet18", "preact_resnet18"]:
            _compare_speed(
                name, ways, asked.images or (50_000 if on_gpu else 1280), recipe, asked.rounds
            )


def _compare_speed(
    name: str, ways: dict[str, Way], images: int, recipe: Recipe, rounds: int
) -> None:
    rng = torch.Generator().manual_seed(0)
    x_NCHW = torch.randint(0, 256, (images, 3, 32, 32), generator=rng, dtype=torch.uint8)
    split = Split(x_NCHW, torch.randint(0, 10, (images,), generator=rng))
    network = _network(name)
    _warm(ways, split, network, recipe)
    speeds: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(rounds):
        for title, way in ways.items():
            speeds[title].append(_trained(split, recipe) / way(split, network, recipe, turn)[0])
    print(
        f"\n{name}, {images} images x {recipe.epochs} epochs, batch {recipe.batch_size}, medians of {rounds} rounds"
    )
    print(
        "| way | images/s | min - max | to the field's way | to the limit | 100 epochs of CIFAR-10 |\n|---|---|---|---|---|---|"
    )
    for title, seen in speeds.items():
        middle = statistics.median(seen)
        print(f"| {title} | {_speed(seen, speeds)} | {_WHOLE / middle:.0f} s |")


def _network(name: str) -> Network:
    return cast(Network, method_class("networks", name)())


def _warm(ways: dict[str, Way], split: Split, network: Network, recipe: Recipe) -> None:
    """Two steps in each way, whose time does not count."""
    for way in ways.values():
        way(split.select(torch.arange(2 * recipe.batch_size)), network, _one_epoch(recipe), 0)


def _one_epoch(recipe: Recipe) -> Recipe:
    return recipe.model_copy(update={"epochs": 1})


def _trained(split: Split, recipe: Recipe) -> int:
    """Images that a training sees; the field's way drops the last partial batch, and so do we."""
    return len(split) // recipe.batch_size * recipe.batch_size * recipe.epochs


def _speed(seen: list[float], speeds: dict[str, list[float]]) -> str:
    """The columns of speed: images per second, their range, the ratios to the field's way and to the limit."""
    to_field, to_limit = (_ratio(seen, speeds[base]) for base in ("field", "limit"))
    return f"{statistics.median(seen):.0f} | {min(seen):.0f} - {max(seen):.0f} | {to_field:.2f} | {to_limit:.2f}"


def _ratio(seen: list[float], base: list[float]) -> float:
    """Median of the ratios of each round."""
    return statistics.median(a / b for a, b in zip(seen, base, strict=True))


def _compare_accuracy(
    name: str,
    attack: Attack,
    ways: dict[str, Way],
    images: int | None,
    recipe: Recipe,
    seeds: int,
) -> None:
    dataset = Cifar10(limit=images, test_limit=None if images is None else 2000, clean=100).load()
    network = _network(name)
    _warm(ways, dataset.train, network, recipe)
    seen: dict[str, dict[str, list[float]]] = {
        fact: {way: [] for way in ways} for fact in ("speed", *_FACTS)
    }
    for seed in range(seeds):
        given = AttackInput(train=dataset.train, num_classes=dataset.num_classes)
        poisoned = attack.poison(given, torch.Generator().manual_seed(seed))
        split = poisoned.over(dataset.train)
        for title, way in ways.items():
            asked = (
                recipe if title != "limit" else _one_epoch(recipe)
            )  # its weights are of no use, only its speed
            seconds, victim = way(split, network, asked, seed)
            seen["speed"][title].append(_trained(split, asked) / seconds)
            if isinstance(victim, Victim):
                facts = measure(victim, dataset, poisoned)
                for fact in _FACTS:
                    seen[fact][title].append(cast(float, facts[fact]))
            print(
                f"seed {seed}, {title}: "
                + ", ".join(
                    f"{fact} {of[title][-1]:.3f}" for fact, of in seen.items() if of[title]
                ),
                flush=True,
            )
    print(
        f"\n{name} on {len(dataset.train)} images of CIFAR-10, {attack}, {recipe.epochs} epochs, batch {recipe.batch_size};"
    )
    print(f"{seeds} seeds: median speed, mean +- sd of the rest")
    print(
        "| way | images/s | min - max | to the field's way | to the limit | clean accuracy | attack success |\n"
        + "|---" * 7
        + "|"
    )
    for title in ways:
        accuracy, success = (_spread(seen[fact][title]) for fact in _FACTS)
        print(
            f"| {title} | {_speed(seen['speed'][title], seen['speed'])} | {accuracy} | {success} |"
        )


def _spread(seen: list[float]) -> str:
    if not seen:
        return "-"
    deviation = f" +- {statistics.stdev(seen):.3f}" if len(seen) > 1 else ""
    return f"{statistics.mean(seen):.3f}{deviation}"


def raybd(split: Split, network: Network, recipe: Recipe, seed: int) -> tuple[float, nn.Module]:
    """raybd's own loop."""
    rng = torch.Generator().manual_seed(seed)
    victim = new_victim(split, 10, network, rng)
    return _timed(lambda: fit(victim, split, recipe, rng)), victim


def raybd_compiled(
    split: Split, network: Network, recipe: Recipe, seed: int
) -> tuple[float, nn.Module]:
    """The same through torch.compile; at the speed of the last epoch, behind the time that compiling takes."""
    speeds: list[float] = []
    with running(
        Runtime(report=lambda facts: speeds.append(facts["images_per_second"]), compile=True)
    ):
        _, victim = raybd(split, network, recipe, seed)
    return len(split) // recipe.batch_size * recipe.batch_size * recipe.epochs / speeds[-1], victim


class _Pictures(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """PIL images through torchvision transforms, one at a time."""

    def __init__(self, split: Split, recipe: Recipe, victim: Victim) -> None:
        self.images, self.labels = [to_pil_image(x) for x in split.x_NCHW], split.y_N.tolist()
        side = split.x_NCHW.shape[-1]
        crop = [transforms.RandomCrop(side, padding=side // 8)] if "crop" in recipe.augment else []
        flip = [transforms.RandomHorizontalFlip()] if "flip" in recipe.augment else []
        normalise = transforms.Normalize(victim.mean_C.tolist(), victim.std_C.tolist())
        self.transform = transforms.Compose([*crop, *flip, transforms.ToTensor(), normalise])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.images[index]), self.labels[index]


def field(split: Split, network: Network, recipe: Recipe, seed: int) -> tuple[float, nn.Module]:
    """The field's way: DataLoader of PIL images, fp32, contiguous. Returns the same kind of victim, from the same weights."""
    where = device()
    torch.manual_seed(seed)
    victim = new_victim(split, 10, network, torch.Generator().manual_seed(seed))
    pictures, on_gpu = _Pictures(split, recipe, victim), where.type == "cuda"
    workers = min(8, os.cpu_count() or 1) if on_gpu else 0
    loader = DataLoader(
        pictures,
        recipe.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=on_gpu,
    )
    assert victim.head is not None
    model = nn.Sequential(victim.encoder, victim.head).to(where).train()
    optimizer, scheduler = _optimizer(model, recipe, len(loader) * recipe.epochs, fused=False)

    def train() -> None:
        for _ in range(recipe.epochs):
            for x, y in loader:
                optimizer.zero_grad()
                F.cross_entropy(
                    model(x.to(where, non_blocking=True)), y.to(where, non_blocking=True)
                ).backward()
                optimizer.step()
                scheduler.step()

    return _timed(train), victim


def limit(split: Split, network: Network, recipe: Recipe, seed: int) -> tuple[float, nn.Module]:
    """Bare steps on one resident batch after the other."""
    where, batch = device(), recipe.batch_size
    torch.manual_seed(seed)
    model = nn.Sequential(*network.build(10, 32)).to(where).to(memory_format=torch.channels_last)
    steps = len(split) // batch
    optimizer, scheduler = _optimizer(model, recipe, steps * recipe.epochs, fused=True)
    x_NCHW = ((split.x_NCHW.float() - 127) / 64).to(where).to(memory_format=torch.channels_last)
    y_N = split.y_N.to(where)

    def train() -> None:
        for _ in range(recipe.epochs):
            for start in range(0, steps * batch, batch):
                with torch.autocast(where.type, torch.bfloat16, enabled=has_bf16()):
                    loss = F.cross_entropy(
                        model(x_NCHW[start : start + batch]), y_N[start : start + batch]
                    )
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                scheduler.step()

    return _timed(train), model


def _optimizer(
    model: nn.Module, recipe: Recipe, steps: int, fused: bool
) -> tuple[torch.optim.Optimizer, LambdaLR]:
    """The recipe's, without raybd: SGD with Nesterov momentum, and a cosine over all steps behind a linear warm-up."""
    optimizer = torch.optim.SGD(
        model.parameters(),
        recipe.lr,
        recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=True,
        fused=fused,
    )
    warm = int(steps * recipe.warmup)
    rise = torch.linspace(0.01, 1, warm + 1).tolist()
    fall = (0.5 * (1 + torch.cos(torch.linspace(0, torch.pi, steps - warm + 1)))).tolist()
    return optimizer, LambdaLR(optimizer, lambda step: (rise[:warm] + fall)[step])


def _timed(work: Callable[[], object]) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
