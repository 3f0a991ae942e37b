"""Weights of plain code in a victim: matched by name and shape, and never by their order."""

from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from raybd.types.errors import UserError
from raybd.types.models import Network, Plain, Victim

COUNTER = ".num_batches_tracked"
"""What batch normalisation counts; no answer depends on it, and old weights lack it."""
SHOWN = 5
"""Names of weights that an error lists."""

Value = TypeVar("Value")


def bare_names(found: Mapping[str, Value]) -> dict[str, Value]:
    """Return weights without what all names begin with: module., model., _orig_mod., 1. and so on.

    Wrappers put it there: DataParallel, torch.compile, Lightning, a normalisation in front.
    """
    named = dict(found)
    while True:
        starts = {name.partition(".")[0] for name in named}
        # A name without a dot is a weight of the model itself.
        if len(starts) != 1 or not all("." in name for name in named):
            return named
        named = {name.partition(".")[2]: value for name, value in named.items()}


def adopt(
    network: Network, found: Mapping[str, Tensor], image_size: int, where: str
) -> tuple[nn.Module, nn.Module]:
    """Return encoder and head of a network with weights under plain names, or under our own.

    The head has the classes of the weights. Raises UserError that lists the first names that are
    missing, unknown, or of another shape.
    """
    found = bare_names(found)
    network = network.without_pretraining()
    plain = network.plain(image_size)
    scheme = None if plain is None or _has(found, "head.weight", "encoder.") else plain

    head_weight = f"{'head' if scheme is None else scheme.head}.weight"
    if head_weight not in found or found[head_weight].ndim != 2:
        raise _misfit(where, network, [f"missing {head_weight}"], found)
    # `build` draws weights that are replaced.
    with torch.random.fork_rng(devices=[]):
        encoder, head = network.build(len(found[head_weight]), image_size)
    model = nn.ModuleDict({"encoder": encoder, "head": head})
    own = model.state_dict()
    model.load_state_dict(_taken(own, found, scheme, where, network))
    return encoder, head


def plain_weights(victim: Victim, plain: Plain | None) -> dict[str, Tensor]:
    """Return the weights of a victim's encoder and head under plain names (None: our own)."""
    return {
        name if plain is None else plain.name(name): tensor
        for name, tensor in victim.state_dict().items()
        if name.startswith(("encoder.", "head."))
    }


def _taken(
    own: Mapping[str, Tensor],
    found: Mapping[str, Tensor],
    scheme: Plain | None,
    where: str,
    network: Network,
) -> dict[str, Tensor]:
    """Return the found weights under the names of a victim."""
    wanted = {name if scheme is None else scheme.name(name): name for name in own}
    unused = scheme.unused if scheme is not None else ()
    wrong = [f"missing {name}" for name in wanted if name not in found and not _counts(name)]
    wrong += [
        f"unknown {name}"
        for name in found
        if name not in wanted and not (unused and name.startswith(unused))
    ]
    wrong += [
        f"{name} has the shape {list(found[name].shape)} instead of {list(own[mine].shape)}"
        for name, mine in wanted.items()
        if name in found and found[name].shape != own[mine].shape
    ]
    if wrong:
        raise _misfit(where, network, wrong, found)
    return {mine: found.get(name, own[mine]) for name, mine in wanted.items()}


def _has(found: Mapping[str, Tensor], name: str, start: str) -> bool:
    return name in found and any(one.startswith(start) for one in found)


def _counts(name: str) -> bool:
    return name.endswith(COUNTER)


def _misfit(
    where: str, network: Network, wrong: list[str], found: Mapping[str, Tensor]
) -> UserError:
    more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
    return UserError(
        f"{where}: {len(found)} weights, which are not those of {type(network).__name__}: "
        f"{'; '.join(wrong[:SHOWN])}{more}",
        "Set `network` to the architecture that was trained, or leave it out to have it looked "
        "for; `prefix` names the model's part of a larger one.",
        exit_code=1,
    )
