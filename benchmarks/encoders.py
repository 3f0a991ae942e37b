"""SimCLR and DeDe's decoder: raybd's training against the field's way and against the limit, in one run.

    python -m benchmarks.encoders [--network resnet18] [--images 512] [--epochs 2] [--rounds 3]

The field's way, written here, has the same networks, losses, batches and steps in fp32: for SimCLR, two views of every image
through torchvision's transforms of PIL images in a DataLoader; for DeDe, images from a DataLoader, and the victim's embeddings
computed anew for every batch. The limit: bare steps on one resident batch, prepared before, bf16 where the hardware has it.
Random pixels.
"""

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast

import torch
from lightly.loss import NTXentLoss
from lightly.models.modules.heads import SimCLRProjectionHead
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as Pictures
from torchvision import transforms
from torchvision.transforms.functional import to_pil_image

from benchmarks.rounds import alternate, show
from raybd.detectors.dede import DeDe
from raybd.detectors.dede.decoder import MaskedDecoder, hidden, visible_count
from raybd.distributed.group import device
from raybd.registry import method_class
from raybd.trainers.self_supervised.simclr import SimCLR
from raybd.training.inference import infer
from raybd.training.models import new_victim
from raybd.training.precision import has_bf16
from raybd.training.self_supervised import width
from raybd.types.data import Split
from raybd.types.models import Network, Victim

CLASSES = 10
Way = Callable[[Any, Any, Split], object]
"""(method, network or victim, training images)"""


def main() -> None:
    on_gpu = torch.cuda.is_available()
    arguments = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    arguments.add_argument("--network", default="resnet18")
    arguments.add_argument("--images", type=int, default=50_000 if on_gpu else 512)
    arguments.add_argument("--epochs", type=int, default=2)
    arguments.add_argument("--rounds", type=int, default=3)
    asked = arguments.parse_args()
    rng = torch.Generator().manual_seed(0)
    x_NCHW = torch.randint(0, 256, (asked.images, 3, 32, 32), generator=rng, dtype=torch.uint8)
    split = Split(x_NCHW, torch.randint(0, CLASSES, (asked.images,), generator=rng))
    network = cast(Network, method_class("networks", asked.network)())
    victim = new_victim(split, CLASSES, network, rng)
    simclr, dede = SimCLR(epochs=asked.epochs), DeDe(epochs=asked.epochs)
    compare(
        f"SimCLR, {asked.network}",
        (field_views, raybd_views, bare_views),
        simclr,
        network,
        split,
        asked.rounds,
    )
    compare(
        f"DeDe on {asked.network}",
        (field_decoder, raybd_decoder, bare_decoder),
        dede,
        victim,
        split,
        asked.rounds,
    )


def compare(
    title: str, ways: tuple[Way, Way, Way], method: Any, on: Any, split: Split, rounds: int
) -> None:
    """The three ways in turn; two steps of each before, whose time does not count."""
    few = split.select(torch.arange(min(len(split), 2 * method.batch_size)))
    for way in ways:
        way(method.model_copy(update={"epochs": 1}), on, few)
    works = {
        name: partial(way, method, on, split)
        for name, way in zip(("field", "raybd", "limit"), ways, strict=True)
    }
    taken = alternate(works, rounds)
    size = f"{len(split)} images x {method.epochs} epochs, batch {method.batch_size}"
    show(f"\n{title}: {size}", taken, dict.fromkeys(taken, "raybd"), "raybd")


def raybd_views(simclr: SimCLR, network: Network, split: Split) -> None:
    """raybd's own."""
    simclr.train(split, CLASSES, network, torch.Generator().manual_seed(0))


def field_views(simclr: SimCLR, network: Network, split: Split) -> None:
    """PIL images, two views of each through torchvision, fp32."""
    model, victim = _encoder_and_head(simclr, network, split)
    optimizer, loss = _sgd(model, simclr, fused=False), NTXentLoss(simclr.temperature)
    views = simclr.views
    changes = transforms.ColorJitter(views.brightness, views.contrast, views.saturation, views.hue)
    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(split.x_NCHW.shape[-1], (views.smallest_crop, 1.0)),
            transforms.RandomHorizontalFlip(views.flip),
            transforms.RandomApply([changes], views.jitter),
            transforms.RandomGrayscale(views.gray),
            transforms.ToTensor(),
            transforms.Normalize(victim.mean_C.tolist(), victim.std_C.tolist()),
        ]
    )
    for one_BCHW, other_BCHW in _epochs(
        split, lambda image: (transform(image), transform(image)), simclr.batch_size, simclr.epochs
    ):
        p_BD = model(torch.cat([one_BCHW, other_BCHW]))
        _step(optimizer, loss(*p_BD.chunk(2)))


def bare_views(simclr: SimCLR, network: Network, split: Split) -> None:
    """The same two views at every step."""
    model, victim = _encoder_and_head(simclr, network, split)
    model.to(memory_format=torch.channels_last)
    optimizer, loss = _sgd(model, simclr, fused=True), NTXentLoss(simclr.temperature)
    x_BCHW = victim.preprocess(split.x_NCHW[: simclr.batch_size].to(device()))
    views_BCHW = torch.cat([x_BCHW, x_BCHW.flip(3)]).contiguous(memory_format=torch.channels_last)
    for _ in range(len(split) // simclr.batch_size * simclr.epochs):
        with torch.autocast(device().type, torch.bfloat16, enabled=has_bf16()):
            p_BD = model(views_BCHW)
        _step(optimizer, loss(*p_BD.float().chunk(2)))


def raybd_decoder(dede: DeDe, victim: Victim, split: Split) -> None:
    """raybd's own."""
    dede.painter(victim, split, torch.Generator().manual_seed(0))


def field_decoder(dede: DeDe, victim: Victim, split: Split) -> None:
    """PIL images, the victim's embeddings of each batch, fp32."""
    victim.to(device()).eval()
    model = _decoder(dede, victim, split)
    optimizer = torch.optim.AdamW(model.parameters(), dede.lr, weight_decay=dede.weight_decay)
    for (x_BCHW,) in _epochs(
        split, lambda image: (transforms.PILToTensor()(image),), dede.batch_size, dede.epochs
    ):
        with torch.no_grad():
            z_BD = victim.embed(x_BCHW)
        _step(optimizer, _painting_loss(dede, model, x_BCHW, z_BD))


def bare_decoder(dede: DeDe, victim: Victim, split: Split) -> None:
    """One batch, whose embeddings are there."""
    x_BCHW = split.x_NCHW[: dede.batch_size].to(device())
    z_BD = infer(victim, x_BCHW, victim.embed).to(device())
    model = _decoder(dede, victim, split)
    optimizer = torch.optim.AdamW(
        model.parameters(), dede.lr, weight_decay=dede.weight_decay, fused=True
    )
    for _ in range(len(split) // dede.batch_size * dede.epochs):
        with torch.autocast(device().type, torch.bfloat16, enabled=has_bf16()):
            loss = _painting_loss(dede, model, x_BCHW, z_BD)
        _step(optimizer, loss)


def _epochs(
    split: Split, transform: Callable[[Image.Image], tuple[Tensor, ...]], batch: int, epochs: int
) -> Iterator[list[Tensor]]:
    """Batches of transformed PIL images on the device, as a DataLoader makes them."""
    on_gpu = torch.cuda.is_available()
    pictures = _Transformed([to_pil_image(x_CHW) for x_CHW in split.x_NCHW], transform)
    workers = 8 if on_gpu else 0
    loader = DataLoader(
        pictures, batch, shuffle=True, drop_last=True, num_workers=workers, pin_memory=on_gpu
    )
    for _ in range(epochs):
        for parts in loader:
            yield [part.to(device(), non_blocking=True) for part in parts]


class _Transformed(Pictures[tuple[Tensor, ...]]):
    def __init__(
        self, images: list[Image.Image], transform: Callable[[Image.Image], tuple[Tensor, ...]]
    ) -> None:
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return self.transform(self.images[index])


def _encoder_and_head(simclr: SimCLR, network: Network, split: Split) -> tuple[nn.Module, Victim]:
    victim = simclr.encoder(split, CLASSES, network, torch.Generator().manual_seed(0))
    values = width(victim, split)
    head = SimCLRProjectionHead(values, values, simclr.output, batch_norm=False).to(device())
    return nn.Sequential(victim.encoder, head).train(), victim


def _sgd(model: nn.Module, recipe: SimCLR, fused: bool) -> torch.optim.Optimizer:
    decay = recipe.weight_decay
    return torch.optim.SGD(
        model.parameters(),
        recipe.lr,
        recipe.momentum,
        weight_decay=decay,
        nesterov=True,
        fused=fused,
    )


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _decoder(dede: DeDe, victim: Victim, split: Split) -> MaskedDecoder:
    sizes = dede.model_dump(include={"patch", "width", "encoder_depth", "decoder_depth"})
    values, side = width(victim, split), split.x_NCHW.shape[-1]
    heads = dede.heads or max(1, dede.width // 64)
    return (
        MaskedDecoder(victim.mean_C, victim.std_C, side=side, values=values, heads=heads, **sizes)
        .to(device())
        .train()
    )


def _painting_loss(dede: DeDe, model: MaskedDecoder, x_BCHW: Tensor, z_BD: Tensor) -> Tensor:
    seen = visible_count(model.tokens, dede.mask_ratio)
    seen_BK = torch.rand(len(x_BCHW), model.tokens).argsort(1)[:, :seen].to(x_BCHW.device)
    square_BT = torch.square(model(x_BCHW, z_BD, seen_BK) - model.wanted(x_BCHW)).mean(2)
    return (square_BT * hidden(seen_BK, model.tokens)).sum() / (len(x_BCHW) * (model.tokens - seen))


if __name__ == "__main__":
    main()
