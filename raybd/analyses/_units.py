"""What the tools about units share: which layers are meant, and what their units put out.

A unit is a channel of a map, a dimension of a token, or an element of a vector.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from raybd.analyses._needs import need_pairs
from raybd.training.inference import infer
from raybd.training.layers import Call, last_map, reading, trace
from raybd.types.errors import UserError
from raybd.types.methods import Pairs
from raybd.types.models import Victim

if TYPE_CHECKING:
    import pyarrow as pa

Reduction = Literal["mean", "max", "l2"]
"""What a map is reduced to over its positions: the mean, the maximum, or the Euclidean norm."""
FEATURES = "features"
"""The name of the embedding, which the head is given."""
AT_ONCE = 100
"""Images in a pass: the outputs of all layers are held at the same time."""
_LAYERS = (nn.Conv2d, nn.Linear, _BatchNorm, nn.LayerNorm, nn.GroupNorm)


def layers_of(tool: str, victim: Victim, x_NCHW: Tensor, layer: str) -> list[str]:
    """Return the names of the layers that are meant, in the order of execution.

    `layer` is the dotted name of a module of the encoder, last_map (the last feature map), features
    (the embedding), or all: each convolution, linear layer and normalisation. Raises UserError.
    """
    # Any images show which modules are called: two are enough.
    x_BCHW = x_NCHW[:2]
    if layer == FEATURES:
        return [layer]
    if layer == "all":
        named = [call.name for call in trace(victim, x_BCHW) if _counts(call, len(x_BCHW))]
        if not named:
            raise UserError(
                f"{tool}: the encoder has no convolution, linear layer or normalisation",
                "Name a layer of it, or take features.",
                exit_code=1,
            )
        return list(dict.fromkeys(named))
    if layer == "last_map":
        found = last_map(victim, x_BCHW)
        if found is None:
            raise UserError(
                f"{tool}: the encoder has no feature map", "Name a layer of it.", exit_code=1
            )
        return [found]
    known = [name for name, _ in victim.encoder.named_modules() if name]
    if layer not in known:
        raise UserError(
            f"{tool}: the encoder has no module {layer!r}", f"It has {', '.join(known)}.", 1
        )
    return [layer]


def units(module: nn.Module, out: Tensor) -> Tensor:
    """Return what a module put out as images x units x positions; a vector has one position."""
    if out.dim() == 2:
        return out.unsqueeze(2)
    # Linear layers have their units last. So have layer normalisations, but for those of maps.
    last = isinstance(module, nn.Linear) or (
        isinstance(module, nn.LayerNorm) and out.shape[1] != module.normalized_shape[-1]
    )
    if last or out.dim() == 3:
        return out.flatten(1, -2).mT
    return out.flatten(2)


def reduced(
    victim: Victim, x_NCHW: Tensor, names: Sequence[str], how: Reduction = "mean"
) -> dict[str, Tensor]:
    """Return the activation of each unit on each image, N x units, by layer; float32, CPU."""

    def pool(module: nn.Module, out: Tensor) -> Tensor:
        units_BCT = units(module, out)
        if how == "max":
            return units_BCT.amax(2)
        return units_BCT.norm(dim=2) if how == "l2" else units_BCT.mean(2)

    widths: dict[str, int] = {}

    def read(x_BCHW: Tensor) -> Tensor:
        with _reading(victim, names, pool) as seen:
            victim.embed(x_BCHW)
        kept = seen()
        widths.update({name: part.shape[1] for name, part in kept.items()})
        return torch.cat(list(kept.values()), 1)

    return _by_layer(infer(victim, x_NCHW, read, batch_size=AT_ONCE), names, widths)


def changes(
    victim: Victim, x_NCHW: Tensor, worn_NCHW: Tensor, names: Sequence[str], power: int = 2
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return, by layer, means over images: of each unit's change by the trigger, and its own size.

    The change is the `power`-norm over positions, the size the Euclidean norm without the trigger.
    Whole maps are held for one batch only.
    """
    widths: dict[str, int] = {}

    def read(both_BCHW: Tensor) -> Tensor:
        rows = []
        with _reading(victim, names, units) as before:
            victim.embed(both_BCHW[:, : x_NCHW.shape[1]])
        with _reading(victim, names, units) as after:
            victim.embed(both_BCHW[:, x_NCHW.shape[1] :])
        worn = after()
        for name, plain_BCT in before().items():
            change_BC = torch.linalg.vector_norm(worn[name] - plain_BCT, ord=power, dim=2)
            rows.append(torch.cat([change_BC, plain_BCT.norm(dim=2)], 1))
            widths[name] = rows[-1].shape[1]
        return torch.cat(rows, 1)

    # A pair of images is one row, so that workers that share the images have whole pairs.
    both_NCHW = torch.cat([x_NCHW, worn_NCHW], 1)
    found = _by_layer(infer(victim, both_NCHW, read, batch_size=AT_ONCE), names, widths)
    halves = {name: part.mean(0).chunk(2) for name, part in found.items()}
    return {name: (change_C, usual_C) for name, (change_C, usual_C) in halves.items()}


def first_pairs(tool: str, pairs: Pairs, n: int) -> Pairs:
    """Return the first pairs. Raises UserError if there are none."""
    need_pairs(tool, pairs)
    return Pairs(pairs.x_MCHW[:n], pairs.worn_MCHW[:n], pairs.y_M[:n], pairs.wanted_M[:n])


def floats(values: Iterable[float] | Tensor, half: bool = False) -> "pa.Array":
    """Return a column of numbers; what is not defined is null."""
    import pyarrow as pa

    plain = values.tolist() if isinstance(values, Tensor) else list(values)
    known = [None if math.isnan(value) else value for value in plain]
    return pa.array(known, pa.float16() if half else pa.float32())


def _counts(call: Call, images: int) -> bool:
    """Whether a call is of a layer whose output can be read image by image."""
    readable = len(call.shape) in (2, 3, 4) and call.shape[0] == images
    return isinstance(call.module, _LAYERS) and readable


@contextmanager
def _reading(
    victim: Victim, names: Sequence[str], pool: Callable[[nn.Module, Tensor], Tensor]
) -> Iterator[Callable[[], dict[str, Tensor]]]:
    """Yield what returns, by layer, what `pool` made of its output in the last pass."""
    with ExitStack() as stack:
        inside: list[tuple[str, str, dict[str, Tensor]]] = []
        for name in names:
            # The encoder itself has no name, and puts out the embedding.
            own = "" if name == FEATURES else name
            of_module = partial(pool, victim.encoder.get_submodule(own))
            inside.append((name, own, stack.enter_context(reading(victim, [own], of_module))))
        yield lambda: {name: seen[own] for name, own, seen in inside}


def _by_layer(whole_ND: Tensor, names: Sequence[str], widths: dict[str, int]) -> dict[str, Tensor]:
    parts = whole_ND.split([widths[name] for name in names], 1)
    return dict(zip(names, parts, strict=True))
