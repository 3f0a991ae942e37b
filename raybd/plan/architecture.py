"""The network of weights that somebody else trained, where an experiment names none."""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, cast

import torch

from raybd.registry import method_class
from raybd.training.adoption import COUNTER, bare_names
from raybd.types.errors import UserError
from raybd.types.methods import Trainer
from raybd.types.models import Network, Plain, Victim

DEFAULT_NETWORK = "resnet18"
BUILT_IN: tuple[dict[str, Any], ...] = (
    {"kind": "resnet18"},
    {"kind": "resnet18", "stem": "imagenet"},
    {"kind": "preact_resnet18", "final_norm": False},
    {"kind": "preact_resnet18"},
    {"kind": "small_cnn"},
    {"kind": "small_resnet"},
    {"kind": "wide_resnet16_1"},
    {"kind": "vgg19_bn"},
    {"kind": "convnext_tiny"},
    {"kind": "vit_b_16"},
)
"""The networks of raybd that are looked at, before those of torchvision."""
SLOW = ("regnet_",)
"""The models of torchvision that can't be built without memory; they have to be named."""
IMAGE_SIZE = 224
"""Side of the images that candidates are built for; only transformers depend on it."""

Shapes = frozenset[tuple[str, tuple[int, ...]]]


def network_of(trainer: Trainer) -> dict[str, Any]:
    """Return the entry of the network that a trainer's weights are of, or the default one.

    Weights may name their network, or have the names and shapes of one. Raises UserError if they
    are those of no network, or cannot be read.
    """
    found = trainer.own_network()
    if found is not None:
        return dict(found)
    shapes = trainer.shapes()
    if shapes is None:
        return {"kind": DEFAULT_NETWORK}
    return dict(_matching(frozenset(shapes.items())))


@cache
def _matching(shapes: Shapes) -> Mapping[str, Any]:
    """Return the first network whose weights have these names and shapes."""
    wanted = _comparable(dict(shapes))
    for entry in _candidates():
        # Each classifier is built for as many classes as the weights have.
        for theirs in _shapes(entry, dict(shapes)):
            if theirs == wanted:
                return entry
    shown = ", ".join(f"{name} {list(shape)}" for name, shape in sorted(shapes)[:3])
    raise UserError(
        f"no network of raybd or torchvision has weights of these names and shapes: {shown}, ...",
        "Name it: network: {kind: timm:NAME, input_size: 224}, or another one that it is.",
    )


def _candidates() -> Iterator[dict[str, Any]]:
    yield from BUILT_IN
    family = cast(type[Network], method_class("networks", "torchvision")).family()
    # What people train most often comes first.
    for name in sorted(family, key=lambda name: (not name.startswith("resnet"), name)):
        if not name.startswith(SLOW):
            yield {"kind": "torchvision", "name": f"torchvision-{name}", "model": name}


def _shapes(
    entry: Mapping[str, Any], found: Mapping[str, tuple[int, ...]]
) -> Iterator[Mapping[str, tuple[int, ...]]]:
    """Yield the shapes of a network under the names that plain code has for them, and our own."""
    fields = {key: value for key, value in entry.items() if key not in ("kind", "name")}
    network = cast(Network, method_class("networks", str(entry["kind"])).model_validate(fields))
    plain = network.plain(IMAGE_SIZE)
    bare = bare_names(found)
    for scheme in (plain, None) if plain is not None else (None,):
        head = f"{scheme.head if scheme is not None else 'head'}.weight"
        # Its name is there in no weights of another family: most candidates are not even built.
        if head in bare:
            yield _comparable(_named(network, bare[head][0], scheme))


def _named(network: Network, classes: int, scheme: Plain | None) -> dict[str, tuple[int, ...]]:
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        encoder, head = network.build(classes, IMAGE_SIZE)
        state = Victim(encoder, head, torch.zeros(3), torch.ones(3)).state_dict()
    return {
        name if scheme is None else scheme.name(name): tuple(tensor.shape)
        for name, tensor in state.items()
        if "." in name
    }


def _comparable(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Without the counters of batch normalisation, which old weights lack."""
    return {
        name: tuple(shape)
        for name, shape in bare_names(shapes).items()
        if not name.endswith(COUNTER)
    }
