"""Networks and victims."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, Protocol, Self, runtime_checkable

import torch
from pydantic import Field
from torch import Tensor, nn

from raybd.types.config import Config


@dataclass(frozen=True)
class Plain:
    """What plain code calls the weights of a network, and how it builds the same model."""

    head: str
    """The classifier's name."""
    inside: str = ""
    """What the names of all weights of the encoder here begin with, and do not begin with there."""
    renamed: Mapping[str, str] = field(default_factory=dict)
    """Beginnings of names of the encoder (without `inside`), and what they are there."""
    code: tuple[str, ...] = ()
    """Lines that build `model` with {classes} classes; empty if no library has it."""
    library: str = ""
    """The library whose model it is, if there is one."""
    architecture: str = ""
    """The name of the model in that library."""
    unused: tuple[str, ...] = ()
    """Beginnings of the names of weights there that no answer depends on."""

    def name(self, name: str) -> str:
        """Return the plain name of a weight of a victim, `encoder.` or `head.` and so on."""
        part, _, rest = name.partition(".")
        if part == "head":
            return f"{self.head}.{rest}"
        rest = rest.removeprefix(self.inside)
        for ours, theirs in self.renamed.items():
            if rest.startswith(ours):
                return theirs + rest.removeprefix(ours)
        return rest


class Network(Config):
    """An architecture."""

    squares_only: ClassVar[bool] = False
    """Whether it refuses images whose height is not their width."""
    family_field: ClassVar[str | None] = None
    """The field that a kind with a colon sets, like `model` for torchvision:resnet50, if any."""

    @classmethod
    def family(cls) -> tuple[str, ...]:
        """Return the values that may follow the colon, for the hint about a kind of no file."""
        return ()

    def plain(self, image_size: int) -> Plain | None:
        """Return what plain code calls its weights; None: nobody else has this network.

        `image_size` is the shorter side of the images, in pixels.
        """
        return None

    @abstractmethod
    def build(self, num_classes: int, image_size: int) -> tuple[nn.Module, nn.Module]:
        """Return a freshly initialised encoder (float x_BCHW -> z_BD) and head (z_BD -> logits_BK).

        `image_size` is the shorter side of the images, in pixels.
        Draws from torch's global stream.
        """

    @property
    def starts_pretrained(self) -> bool:
        """Whether it begins with published weights: the field `pretrained`, if it has one."""
        # Most architectures have no published weights, and no such field.
        return bool(dict(self).get("pretrained", False))

    def without_pretraining(self) -> Self:
        """Return the same architecture with freshly drawn weights."""
        # `model_copy` does not check names, and would add a field.
        if "pretrained" not in type(self).model_fields:
            return self
        return self.model_copy(update={"pretrained": False})


Template = Annotated[str, Field(pattern=r"\{\}")]
Templates = Annotated[tuple[Template, ...], Field(min_length=1)] | Literal["imagenet"]
"""Sentences with {} in the place of a class's name; imagenet: the 80 of CLIP's authors."""


@runtime_checkable
class Captioned(Protocol):
    """An encoder that embeds texts, too: images and texts share one embedding space, as in CLIP."""

    def reader(self) -> nn.Module:
        """Return the parts that embed no images; frozen unless someone trains them."""

    def captions(self, class_names: Sequence[str], templates: Templates) -> list[str]:
        """Return each name in each template, grouped by name. Raises UserError without names."""

    def describe(self, texts: Sequence[str]) -> Tensor:
        """Return the embeddings z_MD of texts, on the model's device, with gradients."""

    def factor(self) -> Tensor:
        """Return the factor that turns the cosine of an image and a text into a logit."""

    def contrast(self, z_BD: Tensor, texts: Sequence[str], y_B: Tensor) -> Tensor:
        """Return the contrastive loss of images and texts; those of one label are positives."""


class Victim(nn.Module):
    """A model under attack: preprocessing of uint8 images, an encoder, a head.

    A self-supervised encoder has no head. `entry` stands between preprocessing and encoder; a
    defense may put a transform of the input there.
    """

    mean_C: Tensor
    std_C: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        head: nn.Module | None,
        mean_C: Tensor,
        std_C: Tensor,
        entry: nn.Module | None = None,
    ) -> None:
        super().__init__()
        # There is always a module, so that a transform can be put in front of it.
        self.entry = nn.Identity() if entry is None else entry
        self.encoder = encoder
        self.head = head
        # Buffers, so that they move with the weights and are stored beside them.
        self.register_buffer("mean_C", mean_C.float())
        self.register_buffer("std_C", std_C.float())

    def preprocess(self, x_BCHW: Tensor) -> Tensor:
        """Normalise uint8 images: float, channel mean 0 and deviation 1 on the training set."""
        # One pass over the pixels instead of one each for division, mean and deviation.
        shift_C = -self.mean_C / self.std_C
        scale_C = 1 / (255 * self.std_C)
        return torch.addcmul(shift_C.view(-1, 1, 1), x_BCHW.float(), scale_C.view(-1, 1, 1))

    def embed(self, x_BCHW: Tensor) -> Tensor:
        """Return the embeddings z_BD of uint8 images."""
        z_BD: Tensor = self.encoder(self.entry(self.preprocess(x_BCHW)))
        return z_BD

    def forward(self, x_BCHW: Tensor, with_embedding: bool = False) -> Any:
        """Return logits_BK of uint8 images (z_BD without a head), or (logits_BK, z_BD)."""
        z_BD = self.embed(x_BCHW)
        out = z_BD if self.head is None else self.head(z_BD)
        return (out, z_BD) if with_embedding else out
