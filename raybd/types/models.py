"""Networks and victims."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

import torch
from pydantic import Field
from torch import Tensor, nn

from raybd.types.errors import Infeasible as Infeasible
from raybd.types.errors import UserError as UserError


class Network(Protocol):
    """An architecture."""

    def build(self, num_classes: int, image_size: int) -> tuple[nn.Module, nn.Module]:
        """Freshly initialised (encoder, head): float x_BCHW -> z_BD, and z_BD -> logits_BK. Draws from torch's global stream."""


Template = Annotated[str, Field(pattern=r"\{\}")]


Templates = Annotated[tuple[Template, ...], Field(min_length=1)] | Literal["imagenet"]
"""Sentences with {} where the name of a class goes; imagenet: the 80 of CLIP's authors."""


@runtime_checkable
class Captioned(Protocol):
    """An encoder that reads, too: images and texts share one space of embeddings, as in CLIP."""

    def reader(self) -> nn.Module:
        """All of it that plays no part in embedding images; without gradients unless someone trains it."""

    def captions(self, class_names: Sequence[str], templates: Templates) -> list[str]:
        """Each name in each template, the templates of a name in a row. Raises UserError where there are no names."""

    def describe(self, texts: Sequence[str]) -> Tensor:
        """z_MD of texts, of any length, where the model lies; gradients flow."""

    def factor(self) -> Tensor:
        """What a cosine of an image with a text is multiplied by to be a logit."""

    def contrast(self, z_BD: Tensor, texts: Sequence[str], y_B: Tensor) -> Tensor:
        """How badly the embeddings of a whole batch of images fit their texts; alike are those of one label."""


class Victim(nn.Module):
    """A model under attack: an encoder, a head (none for a self-supervised encoder), and its own preprocessing of uint8 images."""

    mean_C: Tensor
    std_C: Tensor

    def __init__(
        self, encoder: nn.Module, head: nn.Module | None, mean_C: Tensor, std_C: Tensor
    ) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head
        self.register_buffer("mean_C", mean_C.float())
        self.register_buffer("std_C", std_C.float())

    def preprocess(self, x_BCHW: Tensor) -> Tensor:
        """uint8 images -> what the encoder takes."""
        shift_C, scale_C = -self.mean_C / self.std_C, 1 / (255 * self.std_C)
        return torch.addcmul(shift_C.view(-1, 1, 1), x_BCHW.float(), scale_C.view(-1, 1, 1))

    def embed(self, x_BCHW: Tensor) -> Tensor:
        """uint8 images -> z_BD."""
        z_BD: Tensor = self.encoder(self.preprocess(x_BCHW))
        return z_BD

    def forward(self, x_BCHW: Tensor, with_embedding: bool = False) -> Any:
        """uint8 images -> logits_BK, or z_BD where there is no head; (logits_BK, z_BD) where both are asked for."""
        z_BD = self.embed(x_BCHW)
        out = z_BD if self.head is None else self.head(z_BD)
        return (out, z_BD) if with_embedding else out
