"""Models of other libraries as networks: where the classifier is, and what comes before it."""

import difflib
from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import AfterValidator, ValidationInfo
from torch import nn

from raybd.networks._imagenet import Resize


def _has_weights(normalisation: str, info: ValidationInfo) -> str:
    if normalisation == "weights" and not info.data.get("pretrained"):
        raise ValueError("there are no weights to normalise for: set pretrained")
    return normalisation


Normalisation = Annotated[Literal["data", "weights"], AfterValidator(_has_weights)]
"""data: images are normalised by the moments of the training set. weights: by those that the
pretrained weights were made with; the field `pretrained` stands before it."""


def check_known(model: str, known: Iterable[str], library: str) -> None:
    """Raise ValueError that names the nearest models if a library has none of this name."""
    known = list(known)
    if model in known:
        return
    near = difflib.get_close_matches(model, known, n=3, cutoff=0.4)
    raise ValueError(
        f"{library} has no classifier of this name; near it: {', '.join(near) or 'none'}"
    )


def head_name(model: nn.Module) -> str:
    """Return the name of a model's classifier, its last layer. Raises ValueError if it has none."""
    leaves = [name for name, module in model.named_modules() if not [*module.children()]]
    if not leaves or not isinstance(model.get_submodule(leaves[-1]), nn.Linear):
        raise ValueError("its last layer is no linear classifier; take another model")
    return str(leaves[-1])


def divided(model: nn.Module, head: str, side: int | None) -> tuple[nn.Module, nn.Module]:
    """Return a model without its classifier, and the classifier; `side`: resize images before."""
    classifier = model.get_submodule(head)
    model.set_submodule(head, nn.Identity())
    return (model if side is None else nn.Sequential(Resize(side), model)), classifier
