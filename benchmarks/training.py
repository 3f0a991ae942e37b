"""Victim training: raybd's loop, the usual way, and the limit.

    python -m benchmarks.training [--network resnet18 ...] [--images 1280] [--epochs 2]
                                  [--rounds 3] [--compile]
    RAYBD_DATA=/data python -m benchmarks.training --accuracy [--network small_resnet]
                                  [--images 8000] [--epochs 8] [--batch 128]

`field` is the usual way, written here: the same network, batch, augmentation, optimiser, schedule
and steps as a plain PyTorch loop in fp32 over a torchvision DataLoader of PIL images. `limit`: the
same network and optimiser on resident tensors, bf16 and channels_last if the hardware has bf16, no
augmentation, none of raybd's code. Rounds alternate between the ways, so that a change of the
machine's speed affects all of them. Speed is measured on random pixels; on a GPU, the defaults are
CIFAR-10's 50,000 images.

`--accuracy` trains on poisoned CIFAR-10 instead (BadNets, 10 %), and also measures clean accuracy
and attack success.
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

from benchmarks.rounds import arguments_of, print_header, print_row
from raybd.distributed.group import device
from raybd.registry import method_class
from raybd.results.provenance import commit, device_name, versions
from raybd.training.loop import fit
from raybd.training.models import new_victim
from raybd.training.precision import has_bf16
from raybd.training.recipe import Recipe
from raybd.training.runtime import Runtime, running
from raybd.types.data import Dataset, Split
from raybd.types.methods import Attack, AttackInput
from raybd.types.models import Network, Victim

Way = Callable[[Split, Network, Recipe, int], tuple[float, nn.Module]]
"""(split, network, recipe, seed) -> seconds of the training, and what was trained."""
IMAGES_OF_A_VICTIM = 50_000 * 100
"""Images that the usual victim sees: 100 epochs of CIFAR-10."""
QUALITY = ("clean_accuracy", "attack_success")
MAX_LOADER_WORKERS = 8


def main() -> None:
    asked = _arguments().parse_args()
    machine = f"{device_name()}, {torch.get_num_threads()} threads, {platform.system()}"
    print(f"{machine}; torch {versions()['torch']}, commit {commit()}")

    on_gpu = torch.cuda.is_available()
    ways: dict[str, Way] = {"field": field, "raybd": raybd, "limit": limit}
    if asked.compile:
        ways["raybd, compiled"] = raybd_compiled
    if not asked.accuracy:
        images = asked.images or (50_000 if on_gpu else 1280)
        recipe = Recipe(epochs=asked.epochs or 2, batch_size=asked.batch)
        for name in asked.network or ["resnet18", "preact_resnet18"]:
            compare_speed(name, ways, images, recipe, asked.rounds)
        return

    images = asked.images or (None if on_gpu else 8000)
    recipe = Recipe(
        epochs=asked.epochs or 8, batch_size=asked.batch, lr=0.1, warmup=0.2, augment="flip"
    )
    kind = method_class("attacks", asked.attack)
    attack = cast(Attack, kind.model_validate({"rate": asked.rate}))
    for name in asked.network or ["small_resnet"]:
        compare_accuracy(name, attack, ways, images, recipe, asked.seeds)


def _arguments() -> argparse.ArgumentParser:
    arguments = arguments_of(__doc__)
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
    return arguments


def compare_speed(
    name: str, ways: dict[str, Way], images: int, recipe: Recipe, rounds: int
) -> None:
    """Print the images per second of each way, on random pixels."""
    rng = torch.Generator().manual_seed(0)
    x_NCHW = torch.randint(0, 256, (images, 3, 32, 32), generator=rng, dtype=torch.uint8)
    split = Split(x_NCHW, torch.randint(0, 10, (images,), generator=rng))
    network = cast(Network, method_class("networks", name)())
    _warm_up(ways, split, network, recipe)

    speeds: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(rounds):
        for title, way in ways.items():
            seconds, _ = way(split, network, recipe, turn)
            speeds[title].append(_images_seen(split, recipe) / seconds)

    size = f"{images} images x {recipe.epochs} epochs, batch {recipe.batch_size}"
    print(f"\n{name}, {size}, medians of {rounds} rounds")
    print_header(
        "way",
        "images/s",
        "min - max",
        "to the field's way",
        "to the limit",
        "100 epochs of CIFAR-10",
    )
    for title, seen in speeds.items():
        whole = IMAGES_OF_A_VICTIM / statistics.median(seen)
        print_row(title, *_speed_columns(seen, speeds), f"{whole:.0f} s")


def compare_accuracy(
    name: str,
    attack: Attack,
    ways: dict[str, Way],
    images: int | None,
    recipe: Recipe,
    seeds: int,
) -> None:
    """Print speed, clean accuracy and attack success of each way, on poisoned CIFAR-10."""
    # Speed alone is measured where pyarrow is missing, too.
    from raybd.datasets.cifar10 import Cifar10

    # 2,000 test images give a standard error of about one percent.
    dataset = Cifar10(limit=images, test_limit=None if images is None else 2000, clean=100).load()
    network = cast(Network, method_class("networks", name)())
    _warm_up(ways, dataset.train, network, recipe)

    seen: dict[str, dict[str, list[float]]] = {
        title: {fact: [] for fact in ("speed", *QUALITY)} for title in ways
    }
    for seed in range(seeds):
        for title, facts in _train_all(ways, attack, dataset, network, recipe, seed).items():
            for fact, value in facts.items():
                seen[title][fact].append(value)

    size = f"{len(dataset.train)} images of CIFAR-10"
    epochs = f"{recipe.epochs} epochs, batch {recipe.batch_size}"
    print(f"\n{name} on {size}, {attack}, {epochs};")
    print(f"{seeds} seeds: median speed, mean +- sd of the rest")
    print_header(
        "way",
        "images/s",
        "min - max",
        "to the field's way",
        "to the limit",
        "clean accuracy",
        "attack success",
    )
    speeds = {title: found["speed"] for title, found in seen.items()}
    for title, found in seen.items():
        quality = [_mean_and_deviation(found[fact]) for fact in QUALITY]
        print_row(title, *_speed_columns(speeds[title], speeds), *quality)


def _train_all(
    ways: dict[str, Way],
    attack: Attack,
    dataset: Dataset,
    network: Network,
    recipe: Recipe,
    seed: int,
) -> dict[str, dict[str, float]]:
    """Poison and train with one seed in each way; return speed and quality."""
    from raybd.cells.victim_quality import measure

    given = AttackInput(train=dataset.train, num_classes=dataset.num_classes)
    poisoned = attack.poison(given, torch.Generator().manual_seed(seed))
    split = poisoned.over(dataset.train)

    found: dict[str, dict[str, float]] = {}
    for title, way in ways.items():
        # The limit trains without augmentation: its weights are of no use, only its speed.
        asked = recipe if title != "limit" else _one_epoch(recipe)
        seconds, victim = way(split, network, asked, seed)
        found[title] = {"speed": _images_seen(split, asked) / seconds}
        if isinstance(victim, Victim):
            facts = measure(victim, dataset, poisoned)
            found[title] |= {fact: cast(float, facts[fact]) for fact in QUALITY}
        shown = ", ".join(f"{fact} {value:.3f}" for fact, value in found[title].items())
        print(f"seed {seed}, {title}: {shown}", flush=True)
    return found


def _warm_up(ways: dict[str, Way], split: Split, network: Network, recipe: Recipe) -> None:
    """Run two steps in each way, which are not measured."""
    few = split.select(torch.arange(2 * recipe.batch_size))
    for way in ways.values():
        way(few, network, _one_epoch(recipe), 0)


def _one_epoch(recipe: Recipe) -> Recipe:
    return recipe.model_copy(update={"epochs": 1})


def _images_seen(split: Split, recipe: Recipe) -> int:
    """Return the images of a training; all ways drop the last partial batch."""
    return len(split) // recipe.batch_size * recipe.batch_size * recipe.epochs


def _speed_columns(seen: list[float], speeds: dict[str, list[float]]) -> list[str]:
    """Return images per second, their range, and the ratios to the field's way and to the limit."""
    return [
        f"{statistics.median(seen):.0f}",
        f"{min(seen):.0f} - {max(seen):.0f}",
        f"{_median_ratio(seen, speeds['field']):.2f}",
        f"{_median_ratio(seen, speeds['limit']):.2f}",
    ]


def _median_ratio(seen: list[float], base: list[float]) -> float:
    """Return the median of the ratios of each round."""
    # Within a round, because the machine's speed changes from one round to the next.
    return statistics.median(a / b for a, b in zip(seen, base, strict=True))


def _mean_and_deviation(seen: list[float]) -> str:
    if not seen:
        return "-"
    deviation = f" +- {statistics.stdev(seen):.3f}" if len(seen) > 1 else ""
    return f"{statistics.mean(seen):.3f}{deviation}"


def raybd(split: Split, network: Network, recipe: Recipe, seed: int) -> tuple[float, nn.Module]:
    """Train with raybd's loop."""
    rng = torch.Generator().manual_seed(seed)
    victim = new_victim(split, 10, network, rng)
    return _timed(lambda: fit(victim, split, recipe, rng)), victim


def raybd_compiled(
    split: Split, network: Network, recipe: Recipe, seed: int
) -> tuple[float, nn.Module]:
    """Train with raybd's loop through torch.compile.

    The seconds are those at the speed of the last epoch, so that compiling does not count.
    """
    speeds: list[float] = []
    runtime = Runtime(report=lambda facts: speeds.append(facts["images_per_second"]), compile=True)
    with running(runtime):
        _, victim = raybd(split, network, recipe, seed)
    # The report of the last epoch: by then everything is compiled.
    return _images_seen(split, recipe) / speeds[-1], victim


class _Pictures(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """PIL images through torchvision transforms, one at a time."""

    def __init__(self, split: Split, recipe: Recipe, victim: Victim) -> None:
        self.images = [to_pil_image(x_CHW) for x_CHW in split.x_NCHW]
        self.labels = split.y_N.tolist()
        side = split.x_NCHW.shape[-1]
        crop = [transforms.RandomCrop(side, padding=side // 8)] if "crop" in recipe.augment else []
        flip = [transforms.RandomHorizontalFlip()] if "flip" in recipe.augment else []
        # The victim's own numbers: in this way the loader normalises, and the victim does not.
        normalise = transforms.Normalize(victim.mean_C.tolist(), victim.std_C.tolist())
        self.transform = transforms.Compose([*crop, *flip, transforms.ToTensor(), normalise])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.images[index]), self.labels[index]


def field(split: Split, network: Network, recipe: Recipe, seed: int) -> tuple[float, nn.Module]:
    """Train the usual way: DataLoader of PIL images, fp32, contiguous.

    The victim starts from the same weights as raybd's.
    """
    where = device()
    torch.manual_seed(seed)
    victim = new_victim(split, 10, network, torch.Generator().manual_seed(seed))
    loader = _loader(_Pictures(split, recipe, victim), recipe.batch_size, where.type == "cuda")
    assert victim.head is not None
    # Without the victim's preprocessing, which the transforms have done.
    model = nn.Sequential(victim.encoder, victim.head).to(where).train()
    optimizer, scheduler = _optimizer(model, recipe, len(loader) * recipe.epochs, fused=False)

    def train() -> None:
        for _ in range(recipe.epochs):
            for x, y in loader:
                optimizer.zero_grad()
                logits = model(x.to(where, non_blocking=True))
                F.cross_entropy(logits, y.to(where, non_blocking=True)).backward()
                optimizer.step()
                scheduler.step()

    return _timed(train), victim


def _loader(pictures: _Pictures, batch: int, on_gpu: bool) -> DataLoader[tuple[Tensor, int]]:
    # On a CPU, loading processes would take the cores from the training itself.
    workers = min(MAX_LOADER_WORKERS, os.cpu_count() or 1) if on_gpu else 0
    return DataLoader(
        pictures,
        batch,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=on_gpu,
    )


def limit(split: Split, network: Network, recipe: Recipe, seed: int) -> tuple[float, nn.Module]:
    """Run bare steps on one resident batch after the other."""
    where = device()
    batch = recipe.batch_size
    torch.manual_seed(seed)
    model = nn.Sequential(*network.build(10, 32)).to(where).to(memory_format=torch.channels_last)
    steps = len(split) // batch
    optimizer, scheduler = _optimizer(model, recipe, steps * recipe.epochs, fused=True)
    # About normalised: what matters is the time, not what is learned.
    x_NCHW = ((split.x_NCHW.float() - 127) / 64).to(where).to(memory_format=torch.channels_last)
    y_N = split.y_N.to(where)

    def train() -> None:
        for _ in range(recipe.epochs):
            for start in range(0, steps * batch, batch):
                rows = slice(start, start + batch)
                with torch.autocast(where.type, torch.bfloat16, enabled=has_bf16()):
                    loss = F.cross_entropy(model(x_NCHW[rows]), y_N[rows])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                scheduler.step()

    return _timed(train), model


def _optimizer(
    model: nn.Module, recipe: Recipe, steps: int, fused: bool
) -> tuple[torch.optim.Optimizer, LambdaLR]:
    """Return the recipe's optimiser and schedule, without raybd.

    SGD with Nesterov momentum; the learning rate rises linearly, then falls as a cosine to the end.
    """
    optimizer = torch.optim.SGD(
        model.parameters(),
        recipe.lr,
        recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=True,
        fused=fused,
    )
    # One more value than steps: the scheduler asks for the next one after the last step, too.
    warm = int(steps * recipe.warmup)
    rise = torch.linspace(0.01, 1, warm + 1).tolist()
    fall = (0.5 * (1 + torch.cos(torch.linspace(0, torch.pi, steps - warm + 1)))).tolist()
    return optimizer, LambdaLR(optimizer, lambda step: (rise[:warm] + fall)[step])


def _timed(work: Callable[[], object]) -> float:
    # Work that was queued before must not count, and work that is still queued must.
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
