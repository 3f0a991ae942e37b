"""Network: the modules of a victim with their shapes, parameters and multiplications.

A tool of BackdoorBench: Wu et al. 2022, arXiv 2206.12654.
Differs: a table; multiplications are counted by torch's own counter in a pass of one image.
"""

from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from raybd.types.methods import Analysis, AnalysisInput
from raybd.types.models import Victim

if TYPE_CHECKING:
    import pyarrow as pa


class NetworkTree(Analysis):
    """Each module's type, shapes, own parameters and own multiply-accumulate operations."""

    def analyse(self, given: AnalysisInput, rng: Generator) -> "pa.Table":
        """Return path, type, depth, input_shape, output_shape, parameters and macs of each module.

        Shapes are those of one image, like 64x16x16, empty for a module that is not called with a
        tensor. What a module contains counts for the part that contains it alone: both columns of
        numbers sum to those of the victim.
        """
        import pyarrow as pa

        victim = given.victim
        shapes, operations = _run(victim, given.clean.x_NCHW[:1])
        counted: set[int] = set()
        rows = []
        for path, module in victim.named_modules():
            # A parameter that two modules share is one.
            own = [p for p in module.parameters(recurse=False) if id(p) not in counted]
            counted |= {id(parameter) for parameter in own}
            given_shape, shape = shapes.get(path, ("", ""))
            rows.append(
                {
                    "path": path or "victim",
                    "type": type(module).__name__,
                    "depth": path.count(".") + 1 if path else 0,
                    "input_shape": given_shape,
                    "output_shape": shape,
                    "parameters": sum(parameter.numel() for parameter in own),
                    "macs": operations.get(path, 0),
                }
            )
        return pa.Table.from_pylist(rows)


def _run(victim: Victim, x_BCHW: Tensor) -> tuple[dict[str, tuple[str, str]], dict[str, int]]:
    """Return the shapes of each module's first input and output, and its own operations."""
    shapes: dict[str, tuple[str, str]] = {}

    def note(path: str, given: object, out: object) -> None:
        shapes[path] = (_shape(given), _shape(out))

    hooks = [
        module.register_forward_hook(
            lambda _, given, out, path=path: note(path, given[0] if given else None, out)
        )
        for path, module in victim.named_modules()
    ]
    counter = FlopCounterMode(display=False)
    device = victim.mean_C.device
    try:
        with torch.no_grad(), counter:
            victim.eval()(x_BCHW.to(device))
    finally:
        # Also after an error: a hook that stayed would run in every later pass.
        for hook in hooks:
            hook.remove()

    root = type(victim).__name__
    found = counter.get_flop_counts()
    whole = {
        # Two operations, a product and a sum, are one multiply-accumulate.
        path: sum(found.get(f"{root}.{path}" if path else root, {}).values()) // 2
        for path, _ in victim.named_modules()
    }
    return shapes, {path: whole[path] - _inside(victim, path, whole) for path in whole}


def _inside(victim: nn.Module, path: str, whole: dict[str, int]) -> int:
    """Return the operations of the modules that a module contains."""
    children = victim.get_submodule(path).named_children()
    return sum(whole.get(f"{path}.{name}" if path else name, 0) for name, _ in children)


def _shape(value: object) -> str:
    return "x".join(map(str, value.shape[1:])) if isinstance(value, Tensor) else ""
