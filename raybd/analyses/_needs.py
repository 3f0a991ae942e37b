"""What an analysis cannot do without, asked before it computes anything."""

from importlib.util import find_spec

from torch import Tensor, nn

from raybd.training.layers import last_map, maps, trace
from raybd.types.errors import Infeasible, UserError
from raybd.types.methods import Pairs
from raybd.types.models import Victim


def need_library(tool: str, library: str) -> None:
    """Raise UserError where a library of the extra `analysis` is missing."""
    if find_spec(library) is None:
        raise UserError(
            f"{tool} needs the package {library}", "pip install 'raybd[analysis]'", exit_code=1
        )


def need_head(tool: str, victim: Victim) -> nn.Module:
    """Return the head. Raises Infeasible for an encoder without one: it has no logits."""
    if victim.head is None:
        raise Infeasible(f"{tool}: the victim is an encoder without a head, so it has no logits")
    return victim.head


def need_pairs(tool: str, pairs: Pairs, least: int = 1) -> None:
    """Raise UserError if too few test images count."""
    if len(pairs) < least:
        raise UserError(
            f"{tool}: {len(pairs)} test images count for attack success, it needs {least}",
            "Take more test images.",
            exit_code=1,
        )


def map_layer(tool: str, victim: Victim, layer: str, x_BCHW: Tensor) -> str:
    """Return the name of a module that puts out a map B x C x H x W; last_map: the last of them.

    Raises UserError if it is none of the encoder's, or puts out something else.
    """
    found = [call.name for call in maps(victim, x_BCHW)]
    if layer == "last_map" and found:
        return found[-1]
    if layer in found:
        return layer
    what = "has no feature map" if layer == "last_map" else f"has no feature map at {layer!r}"
    hint = f"Its feature maps are at {', '.join(found)}." if found else "Take another network."
    raise UserError(f"{tool}: the encoder {what}", hint, exit_code=1)


def unit_layer(tool: str, victim: Victim, layer: str, x_BCHW: Tensor) -> str:
    """Return the name of a module that puts out something for each image; last_map: maps, tokens.

    Raises UserError if there is none of this name.
    """
    if layer == "last_map":
        found = last_map(victim, x_BCHW)
        if found is None:
            raise UserError(
                f"{tool}: the encoder has no feature map", "Name a layer of it.", exit_code=1
            )
        return found
    known = [call.name for call in trace(victim, x_BCHW) if call.shape[0] == len(x_BCHW)]
    if layer not in known:
        raise UserError(
            f"{tool}: the encoder has no module {layer!r} that answers for each image",
            f"It has {', '.join(dict.fromkeys(known))}.",
            exit_code=1,
        )
    return layer
