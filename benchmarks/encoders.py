"""SimCLR and DeDe's decoder: raybd's training, the usual way, and the limit.

    python -m benchmarks.encoders [--network resnet18] [--images 512] [--epochs 2] [--rounds 3]

`field` is the usual way, written here, with the same networks, losses, batches and steps in fp32:
for SimCLR, two views of every image through torchvision's transforms of PIL images in a DataLoader;
for DeDe, images from a DataLoader, and the victim's embeddings computed for every batch. `limit`:
bare steps on one batch that was prepared before, in bf16 if the hardware has it. Images are random
pixels.
"""

from collections.abc import Callable, Iterator, Mapping
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

from benchmarks.rounds import alternate, arguments_of, show
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
LOADER_WORKERS_ON_GPU = 8
Way = Callable[[Any, Any, Split], object]
"""(method, network or victim, training images)"""


def main() -> None:
    # A CPU takes minutes for these few, and a GPU would hardly be busy with them.
    images = 50_000 if torch.cuda.is_available() else 512
    arguments = arguments_of(__doc__)
    arguments.add_argument("--network", default="resnet18")
    arguments.add_argument("--images", type=int, default=images)
    arguments.add_argument("--epochs", type=int, default=2)
    arguments.add_argument("--rounds", type=int, default=3)
    asked = arguments.parse_args()

    rng = torch.Generator().manual_seed(0)
    x_NCHW = torch.randint(0, 256, (asked.images, 3, 32, 32), generator=rng, dtype=torch.uint8)
    split = Split(x_NCHW, torch.randint(0, CLASSES, (asked.images,), generator=rng))
    network = cast(Network, method_class("networks", asked.network)())
    victim = new_victim(split, CLASSES, network, rng)

    simclr = SimCLR(epochs=asked.epochs)
    views = {"field": field_views, "raybd": raybd_views, "limit": limit_views}
    compare(f"SimCLR, {asked.network}", views, simclr, network, split, asked.rounds)
    dede = DeDe(epochs=asked.epochs)
    decoders = {"field": field_decoder, "raybd": raybd_decoder, "limit": limit_decoder}
    compare(f"DeDe on {asked.network}", decoders, dede, victim, split, asked.rounds)


def compare(
    title: str, ways: Mapping[str, Way], method: Any, on: Any, split: Split, rounds: int
) -> None:
    """Measure the ways in turn, after two steps of each that are not measured."""
    few = split.select(torch.arange(min(len(split), 2 * method.batch_size)))
    for way in ways.values():
        # Imports, kernels and allocations of the first steps are no part of a long training.
        way(method.model_copy(update={"epochs": 1}), on, few)

    work = {name: partial(way, method, on, split) for name, way in ways.items()}
    taken = alternate(work, rounds)
    size = f"{len(split)} images x {method.epochs} epochs, batch {method.batch_size}"
    show(f"\n{title}: {size}", taken, dict.fromkeys(taken, "raybd"), "raybd")


def raybd_views(simclr: SimCLR, network: Network, split: Split) -> None:
    """Train SimCLR with raybd."""
    simclr.train(split, CLASSES, network, torch.Generator().manual_seed(0))


def field_views(simclr: SimCLR, network: Network, split: Split) -> None:
    """Train SimCLR on PIL images, two views of each through torchvision, in fp32."""
    model, victim = _encoder_and_head(simclr, network, split)
    optimizer = _sgd(model, simclr, fused=False)
    loss = NTXentLoss(simclr.temperature)
    transform = _view_transform(simclr, victim, split.x_NCHW.shape[-1])

    def two_views(image: Image.Image) -> tuple[Tensor, ...]:
        return transform(image), transform(image)

    for one_BCHW, other_BCHW in _epochs(split, two_views, simclr.batch_size, simclr.epochs):
        p_BD = model(torch.cat([one_BCHW, other_BCHW]))
        _step(optimizer, loss(*p_BD.chunk(2)))


def limit_views(simclr: SimCLR, network: Network, split: Split) -> None:
    """Train SimCLR on the same two views at every step."""
    model, victim = _encoder_and_head(simclr, network, split)
    # The fastest layout for convolutions in bf16: the limit takes every advantage.
    model.to(memory_format=torch.channels_last)
    optimizer = _sgd(model, simclr, fused=True)
    loss = NTXentLoss(simclr.temperature)

    x_BCHW = victim.preprocess(split.x_NCHW[: simclr.batch_size].to(device()))
    # A flipped copy stands for the second view: the numbers in it do not change the time.
    views_BCHW = torch.cat([x_BCHW, x_BCHW.flip(3)]).contiguous(memory_format=torch.channels_last)
    for _ in range(len(split) // simclr.batch_size * simclr.epochs):
        with torch.autocast(device().type, torch.bfloat16, enabled=has_bf16()):
            p_BD = model(views_BCHW)
        _step(optimizer, loss(*p_BD.float().chunk(2)))


def raybd_decoder(dede: DeDe, victim: Victim, split: Split) -> None:
    """Train the decoder with raybd."""
    dede.painter(victim, split, torch.Generator().manual_seed(0))


def field_decoder(dede: DeDe, victim: Victim, split: Split) -> None:
    """Train the decoder on PIL images, with the victim's embeddings of each batch, in fp32."""
    # The victim is fixed: it only makes embeddings.
    victim.to(device()).eval()
    model = _decoder(dede, victim, split)
    optimizer = torch.optim.AdamW(model.parameters(), dede.lr, weight_decay=dede.weight_decay)
    to_tensor = transforms.PILToTensor()

    def pixels(image: Image.Image) -> tuple[Tensor, ...]:
        return (to_tensor(image),)

    for (x_BCHW,) in _epochs(split, pixels, dede.batch_size, dede.epochs):
        # Decoder and optimiser do not touch the victim, so that its gradient would be wasted.
        with torch.no_grad():
            z_BD = victim.embed(x_BCHW)
        _step(optimizer, _painting_loss(dede, model, x_BCHW, z_BD))


def limit_decoder(dede: DeDe, victim: Victim, split: Split) -> None:
    """Train the decoder on one batch, whose embeddings were computed before."""
    x_BCHW = split.x_NCHW[: dede.batch_size].to(device())
    # raybd computes the embeddings of all images once, the limit those of one batch only.
    z_BD = infer(victim, x_BCHW, victim.embed).to(device())
    model = _decoder(dede, victim, split)
    optimizer = torch.optim.AdamW(
        model.parameters(), dede.lr, weight_decay=dede.weight_decay, fused=True
    )
    for _ in range(len(split) // dede.batch_size * dede.epochs):
        with torch.autocast(device().type, torch.bfloat16, enabled=has_bf16()):
            loss = _painting_loss(dede, model, x_BCHW, z_BD)
        _step(optimizer, loss)


def _view_transform(simclr: SimCLR, victim: Victim, side: int) -> Callable[[Image.Image], Tensor]:
    views = simclr.views
    jitter = transforms.ColorJitter(views.brightness, views.contrast, views.saturation, views.hue)
    transform: Callable[[Image.Image], Tensor] = transforms.Compose(
        [
            transforms.RandomResizedCrop(side, (views.smallest_crop, 1.0)),
            transforms.RandomHorizontalFlip(views.flip),
            transforms.RandomApply([jitter], views.jitter),
            transforms.RandomGrayscale(views.gray),
            transforms.ToTensor(),
            transforms.Normalize(victim.mean_C.tolist(), victim.std_C.tolist()),
        ]
    )
    return transform


def _epochs(
    split: Split, transform: Callable[[Image.Image], tuple[Tensor, ...]], batch: int, epochs: int
) -> Iterator[list[Tensor]]:
    """Yield batches of transformed PIL images on the device, from a DataLoader."""
    on_gpu = torch.cuda.is_available()
    loader = DataLoader(
        _Transformed([to_pil_image(x_CHW) for x_CHW in split.x_NCHW], transform),
        batch,
        shuffle=True,
        drop_last=True,
        # On a CPU, loading processes would take the cores from the training itself.
        num_workers=LOADER_WORKERS_ON_GPU if on_gpu else 0,
        pin_memory=on_gpu,
    )
    for _ in range(epochs):
        for parts in loader:
            yield [part.to(device(), non_blocking=True) for part in parts]


class _Transformed(Pictures[tuple[Tensor, ...]]):
    def __init__(
        self, images: list[Image.Image], transform: Callable[[Image.Image], tuple[Tensor, ...]]
    ) -> None:
        self.images = images
        self.transform = transform

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
    return torch.optim.SGD(
        model.parameters(),
        recipe.lr,
        recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=True,
        fused=fused,
    )


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _decoder(dede: DeDe, victim: Victim, split: Split) -> MaskedDecoder:
    sizes = dede.model_dump(include={"patch", "width", "encoder_depth", "decoder_depth"})
    decoder = MaskedDecoder(
        victim.mean_C,
        victim.std_C,
        side=split.x_NCHW.shape[-1],
        values=width(victim, split),
        heads=dede.heads or max(1, dede.width // 64),
        **sizes,
    )
    return decoder.to(device()).train()


def _painting_loss(dede: DeDe, model: MaskedDecoder, x_BCHW: Tensor, z_BD: Tensor) -> Tensor:
    seen = visible_count(model.tokens, dede.mask_ratio)
    # Other patches of each image, as in a masked autoencoder: sorting noise draws them.
    seen_BK = torch.rand(len(x_BCHW), model.tokens).argsort(1)[:, :seen].to(x_BCHW.device)
    square_BT = torch.square(model(x_BCHW, z_BD, seen_BK) - model.wanted(x_BCHW)).mean(2)
    hidden_tokens = len(x_BCHW) * (model.tokens - seen)
    return (square_BT * hidden(seen_BK, model.tokens)).sum() / hidden_tokens


if __name__ == "__main__":
    main()
