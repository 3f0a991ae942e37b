"""Finds layers of a victim's encoder by their role, and reads what they put out.

Roles are found by execution: one pass over a few images records every call of a module. The order
in which modules are defined does not tell which convolution feeds which normalisation (shortcuts
and pre-activation blocks break it). Names are those of `victim.encoder.named_modules()`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from raybd.distributed import group
from raybd.training.inference import infer
from raybd.types.data import Split
from raybd.types.models import Victim


@dataclass(frozen=True)
class Call:
    """One call of a module in a pass."""

    name: str
    module: nn.Module
    given: torch.Size | None
    """Shape of the first input; None if that is no tensor."""
    shape: torch.Size
    """Shape of the output."""
    fed_by: str | None
    """The convolution whose output, unchanged, is the first input."""

    @property
    def positions(self) -> int:
        """Number of positions of the output: pixels of a map, tokens of a sequence, else 0."""
        if len(self.shape) == 4:
            return self.shape[2] * self.shape[3]
        return self.shape[1] if len(self.shape) == 3 else 0


def trace(victim: Victim, x_BCHW: Tensor) -> list[Call]:
    """Return the calls of all modules of the encoder in the order in which they end.

    A module that contains others ends after them. Sets the victim to eval mode.
    """
    calls: list[Call] = []
    convolved: dict[int, tuple[Tensor, int, str]] = {}

    def note(name: str) -> Callable[[nn.Module, tuple[object, ...], object], None]:
        def hook(module: nn.Module, given: tuple[object, ...], out: object) -> None:
            # A container of outputs, as of recurrent layers or attention, has no one shape.
            if not isinstance(out, Tensor):
                return
            first = given[0] if given and isinstance(given[0], Tensor) else None
            fed_by = None

            # The version of a tensor tells whether an operation in place, like ReLU's, changed it.
            if first is not None and id(first) in convolved:
                _, version, source = convolved[id(first)]
                fed_by = source if first._version == version else None
            if isinstance(module, nn.Conv2d):
                convolved[id(out)] = (out, out._version, name)  # kept, so that the id stays taken

            shape_given = None if first is None else first.shape
            calls.append(Call(name, module, shape_given, out.shape, fed_by))

        return hook

    # The encoder itself, whose name is empty, is no layer of it.
    named = [(name, module) for name, module in victim.encoder.named_modules() if name]
    hooks = [module.register_forward_hook(note(name)) for name, module in named]
    device = group.device()
    # In training mode a pass would move the statistics of batch normalisation.
    victim.to(device).eval()
    try:
        with torch.no_grad():
            victim.embed(x_BCHW.to(device))
    finally:
        # Also after an error: a hook that stayed would run in every later pass.
        for hook in hooks:
            hook.remove()
    return calls


def norms(victim: Victim, x_BCHW: Tensor) -> list[nn.BatchNorm2d]:
    """Return the batch normalisations in the order of their first calls."""
    # A module that is shared is called several times, and counts once.
    called = (call.module for call in trace(victim, x_BCHW))
    return [module for module in dict.fromkeys(called) if isinstance(module, nn.BatchNorm2d)]


def conv_norm_pairs(victim: Victim, x_BCHW: Tensor) -> dict[str, tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Return convolutions with the batch normalisation of their output, by the convolution's name.

    A batch normalisation of anything else, like that of a sum in a pre-activation block, has none.
    """
    pairs: dict[str, tuple[nn.Conv2d, nn.BatchNorm2d]] = {}
    for call in trace(victim, x_BCHW):
        if isinstance(call.module, nn.BatchNorm2d) and call.fed_by is not None:
            conv = victim.encoder.get_submodule(call.fed_by)
            assert isinstance(conv, nn.Conv2d)
            pairs.setdefault(call.fed_by, (conv, call.module))
    return pairs


def maps(victim: Victim, x_BCHW: Tensor) -> list[Call]:
    """Return the calls that put out four dimensions with more than one position."""
    calls = trace(victim, x_BCHW)
    return [call for call in calls if len(call.shape) == 4 and call.positions > 1]


def stages(victim: Victim, x_BCHW: Tensor) -> list[str]:
    """Return the last module of each size of feature maps, large maps first.

    What lies within a block that changes the size itself does not count: a pre-activation block
    normalises its input before it strides, and that map belongs to no stage.
    """
    image = x_BCHW.shape
    calls = [call for call in trace(victim, x_BCHW) if _is_map_of(image, call.shape)]
    strided = [call for call in calls if _is_map_of(image, call.given) and call.given != call.shape]
    last: dict[torch.Size, str] = {}

    for call in calls:
        within = any(
            call.name.startswith(f"{block.name}.")
            and block.given is not None
            and block.given[2:] == call.shape[2:] != block.shape[2:]
            for block in strided
        )
        if call.positions > 1 and not within:
            last[call.shape[2:]] = call.name
    return [last[size] for size in sorted(last, key=torch.Size.numel, reverse=True)]


def last_map(victim: Victim, x_BCHW: Tensor) -> str | None:
    """Return the last module that puts out a map, or tokens, with more than one position."""
    calls = trace(victim, x_BCHW)
    # Outputs whose first dimension is not the batch cannot be read image by image.
    found = [c.name for c in calls if c.positions > 1 and c.shape[0] == len(x_BCHW)]
    return found[-1] if found else None


@contextmanager
def reading(
    victim: Victim,
    names: Sequence[str],
    pool: Callable[[Tensor], Tensor] = lambda out: out,
    inputs: bool = False,
) -> Iterator[dict[str, Tensor]]:
    """Collect what modules of the encoder put out, by name; the last call of each counts.

    `pool` maps it to what is kept of it, at once: whole maps of all modules would fill memory.
    `inputs`: what the modules are given (their first input) instead.
    """
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, given: tuple[Tensor, ...], *out: Tensor) -> None:
            # Cloned, because the next module may change the output in place.
            seen[name] = pool(given[0] if inputs else out[0]).clone()

        return hook

    hooks = []
    for name in names:
        module = victim.encoder.get_submodule(name)
        # Inputs are read before the module runs, which may change them in place.
        register = module.register_forward_pre_hook if inputs else module.register_forward_hook
        hooks.append(register(keep(name)))
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def activations(
    victim: Victim,
    split: Split,
    names: Sequence[str],
    pool: Callable[[Tensor], Tensor] = lambda out: out,
    inputs: bool = False,
) -> dict[str, Tensor]:
    """Return what modules of the encoder put out for all images of a split, in one pass.

    `pool` maps the output of a batch to what is kept of it, B x ..., before the next batch is read.
    `inputs`: what the modules are given instead. Float32, on the CPU; every worker gets all rows.
    """
    shapes: dict[str, torch.Size] = {}

    def read(x_BCHW: Tensor) -> Tensor:
        with reading(victim, names, pool, inputs) as seen:
            victim.embed(x_BCHW)
        # One flat row for each image, because `infer` gathers one tensor; shapes are known only
        # now.
        kept = [seen[name] for name in names]
        shapes.update({name: part.shape[1:] for name, part in zip(names, kept, strict=True)})
        return torch.cat([part.flatten(1) for part in kept], 1)

    whole_ND = infer(victim, split.x_NCHW, read)
    parts = whole_ND.split([shapes[name].numel() for name in names], 1)
    return {name: part.unflatten(1, shapes[name]) for name, part in zip(names, parts, strict=True)}


def tail(victim: Victim, name: str, x_BCHW: Tensor) -> Callable[[Tensor], Tensor]:
    """Return the function from outputs of a module (B x ...) to outputs of the victim.

    It passes gradients. The layers before the module run too, on the first of the images given
    here, because modules do not tell what else depends on them.
    """
    module = victim.encoder.get_submodule(name)

    def run(out: Tensor) -> Tensor:
        # Cloned, because the next module may change its input in place.
        hook = module.register_forward_hook(lambda module, given, replaced: out.clone())
        try:
            returned: Tensor = victim(x_BCHW[:1].to(out.device).expand(len(out), -1, -1, -1))
        finally:
            hook.remove()
        return returned

    return run


def channel_bounds(conv: nn.Conv2d, norm: _BatchNorm) -> Tensor:
    """Return an upper bound of each output channel's Lipschitz constant, float64, C."""
    assert norm.running_var is not None
    filters = conv.weight.detach().double().flatten(2)  # output channels x input channels x k k
    scale_C = norm.weight.detach().double() / (norm.running_var.double() + norm.eps).sqrt()
    # A negative scale stretches as much as a positive one.
    bound_C: Tensor = torch.linalg.matrix_norm(filters, ord=2) * scale_C.abs()
    return bound_C


def by_position(out: Tensor) -> Tensor:
    """Return a map (B x C x H x W) or tokens (B x T x C) as channels at positions, B x C x T."""
    return out.flatten(2) if out.ndim == 4 else out.mT


def _is_map_of(image: torch.Size, shape: torch.Size | None) -> bool:
    """Whether a shape is that of maps with channels second (and not last, as within ConvNeXt)."""
    if shape is None or len(shape) != 4:
        return False
    # Maps have the proportions of the image, up to a pixel that a stride rounds up.
    height, width = image[2:]
    return abs(shape[2] * width - shape[3] * height) < max(height, width)
