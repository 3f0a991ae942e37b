"""Small self-supervised trainings, and an encoder for probes."""

from typing import Any

import torch
from torch import nn

from raybd.networks.small_cnn import SmallCnn
from raybd.networks.vit_tiny import VitTiny
from raybd.registry import method_class
from raybd.training.runtime import Runtime, running
from raybd.types.data import Split
from raybd.types.models import Victim
from tests.some_images import some_images

KINDS = ["simclr", "moco", "byol", "simsiam", "mae", "supcon"]
SMALL: dict[str, dict[str, Any]] = {
    "moco": {"queue": 64, "keep": 0.9},
    "byol": {"hidden": 16, "output": 8, "keep": 0.9, "keep_schedule": "cosine"},
    "simsiam": {"hidden": 8, "output": 16},
    "mae": {"decoder_width": 16, "decoder_depth": 1, "warmup": 0},
}
"""Fields that make a trainer quick."""


def network(kind: str) -> Any:
    """Return a small network that the trainer takes."""
    return VitTiny(width=16, depth=2, heads=2) if kind == "mae" else SmallCnn(width=4)


def trainer(kind: str, **fields: Any) -> Any:
    """Return the trainer of this name, made quick."""
    light = {"epochs": 2, "batch_size": 25, "precision": "fp32", **SMALL.get(kind, {}), **fields}
    return method_class("trainers", kind).model_validate(light)


def train(
    kind: str,
    split: Split | None = None,
    seed: int = 7,
    runtime: Runtime | None = None,
    **fields: Any,
) -> Victim:
    """Return what the trainer makes of 50 images, unless others are given."""
    rng = torch.Generator().manual_seed(seed)
    with running(runtime or Runtime()):
        victim: Victim = trainer(kind, **fields).train(
            split or some_images(50), 4, network(kind), rng
        )
    return victim


def fixed_encoder() -> Victim:
    """Return an encoder without a head, always the same one."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        encoder = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.ReLU(), nn.Flatten())
        return Victim(encoder, None, torch.full((3,), 0.3), torch.full((3,), 0.2)).eval()
