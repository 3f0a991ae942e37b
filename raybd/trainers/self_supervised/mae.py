"""MAE: a vision transformer sees a quarter of an image's patches, and a small decoder on top of it fills in the others.

He, Chen, Xie, Li, Dollar and Girshick 2022, arXiv 2111.06377, section 3 and appendix A.1. Masked encoder and decoder are lightly's.
Recipe: solo-learn's for CIFAR-10 (AdamW 2e-4 at batch 256, weight decay 0.05, mask 0.75, crops and flips alone). No result of it is
published; without fine-tuning such features are weak (lightly, Imagenette, 800 epochs: kNN 0.610 against 0.889 of SimCLR).
Differs: Adam's second momentum is 0.999; weights are drawn by the network's own rule.
"""

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from raybd.distributed import group
from raybd.training.loop import fit
from raybd.training.self_supervised import SelfSupervised, exact, seeded
from raybd.training.views import Views
from raybd.types.config import searched
from raybd.types.data import Split
from raybd.types.errors import UserError
from raybd.types.models import Network, Victim


class MAE(SelfSupervised):
    """Train a vision transformer to complete images, without labels."""

    epochs: int = Field(800, ge=1, json_schema_extra=searched(low=100, high=1600, log=True))
    """Passes over the training images."""
    batch_size: int = Field(256, ge=1)
    """Images per step over all workers; the last, smaller batch of an epoch is dropped."""
    optimizer: Literal["sgd", "adam"] = "adam"
    """SGD has Nesterov momentum; Adam decouples its weight decay."""
    lr: float = Field(2e-4, gt=0, json_schema_extra=searched(low=5e-5, high=2e-3, log=True))
    """Highest learning rate."""
    weight_decay: float = Field(0.05, ge=0)
    """L2 penalty (SGD) or decoupled decay (Adam)."""
    warmup: float = Field(0.05, ge=0, lt=1)
    """Share of the training over which the learning rate rises from zero."""
    views: Views = Views(jitter=0, gray=0)
    """How the image to be completed is drawn: cropped and mirrored."""
    mask: float = Field(0.75, gt=0, lt=1, json_schema_extra=searched(low=0.5, high=0.9))
    """Share of patches that the encoder does not see."""
    normalise_patches: bool = True
    """Whether each patch is completed up to its own mean and deviation."""
    decoder_width: int = Field(512, ge=16, multiple_of=16)
    """Values of a token in the decoder, 16 heads."""
    decoder_depth: int = Field(8, ge=1)
    """Blocks of the decoder."""

    def train(self, split: Split, num_classes: int, network: Network, rng: Generator) -> Victim:
        """An encoder trained on the images of the split. Raises UserError for a network that is no vision transformer."""
        victim, batch = self.encoder(split, num_classes, network, rng), self.batch(split)
        fresh = not getattr(network, "pretrained", False)
        completion = seeded(
            lambda: _Completion(victim.encoder, self.decoder_width, self.decoder_depth, fresh), rng
        )
        hidden = min(max(1, round(completion.patches * self.mask)), completion.patches - 1)

        def objective(model: nn.Module, x_BCHW: Tensor, y_B: Tensor, rows_B: Tensor) -> Tensor:
            view_BCHW = self.views.one(x_BCHW, batch, rng)
            order_BT = torch.rand(batch, completion.patches, generator=rng)[
                group.shard(torch.arange(batch))
            ].argsort(1)
            completion.hide(order_BT.to(x_BCHW.device), hidden)
            p_BTD = model(view_BCHW)
            with exact(p_BTD.device):
                patch_BTD = completion.hidden_patches(
                    victim.preprocess(view_BCHW), self.normalise_patches
                )
                return torch.square(p_BTD.float() - patch_BTD).mean((1, 2))

        fit(
            Victim(completion, None, victim.mean_C, victim.std_C),
            split,
            self,
            rng,
            objective,
            name="mae",
        )
        return Victim(
            victim.encoder.requires_grad_(True), None, victim.mean_C.cpu(), victim.std_C.cpu()
        ).eval()


class _Completion(nn.Module):
    """Preprocessed images -> hidden patches, as the encoder and a decoder on top of it guess them from the others."""

    def __init__(self, encoder: nn.Module, width: int, depth: int, fresh: bool) -> None:
        from lightly.models.modules import MaskedVisionTransformerDecoderTIMM

        super().__init__()
        self.front, self.masked, values, self.patch = _masked(encoder, fresh)
        self.patches = self.masked.sequence_length - 1
        self.embed = nn.Linear(values, width)
        self.decoder = MaskedVisionTransformerDecoderTIMM(self.patches, width, depth, num_heads=16)
        self.predict = nn.Linear(width, 3 * self.patch**2)

    def hide(self, order_BT: Tensor, hidden: int) -> None:
        """Choose the patches of the next images: the first ones of this order are hidden. Token 0 is the class token."""
        self.hidden_BT, kept_BT = order_BT[:, :hidden] + 1, order_BT[:, hidden:] + 1
        self.kept_BT = torch.cat([torch.zeros_like(kept_BT[:, :1]), kept_BT], 1)

    def hidden_patches(self, x_BCHW: Tensor, normalise: bool) -> Tensor:
        """The pixels of the hidden patches."""
        from lightly.models.utils import get_at_index, normalize_mean_var, patchify

        patch_BTD = get_at_index(
            patchify(self.front(x_BCHW).float(), self.patch), self.hidden_BT - 1
        )
        target_BTD: Tensor = normalize_mean_var(patch_BTD) if normalise else patch_BTD
        return target_BTD

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """A guess at the pixels of the hidden patches."""
        from lightly.models.utils import get_at_index, repeat_token, set_at_index

        seen_BTD = self.embed(self.masked.encode(self.front(x_BCHW), idx_keep=self.kept_BT))
        token_BTD = repeat_token(self.decoder.mask_token, (len(x_BCHW), self.patches + 1)).type_as(
            seen_BTD
        )
        decoded_BTD = self.decoder(set_at_index(token_BTD, self.kept_BT, seen_BTD))
        guess_BTD: Tensor = self.predict(get_at_index(decoded_BTD, self.hidden_BT))
        return guess_BTD


def _masked(encoder: nn.Module, fresh: bool) -> tuple[nn.Module, Any, int, int]:
    """What comes before the transformer in an encoder, the transformer that can skip tokens, its width and its patch's side."""
    from lightly.models.modules import (
        MaskedVisionTransformerTIMM,
        MaskedVisionTransformerTorchvision,
    )
    from timm.models.vision_transformer import VisionTransformer as Timm
    from torchvision.models import VisionTransformer as Torchvision

    parts = list(encoder) if isinstance(encoder, nn.Sequential) else [encoder]
    vit: Any = parts[-1]
    how: Any = {
        "weight_initialization": "skip",
        "pos_embed_initialization": "sincos" if fresh else "skip",
    }
    if isinstance(vit, Torchvision):
        unused = nn.Parameter(torch.zeros(1, 1, vit.hidden_dim), requires_grad=False)
        return (
            nn.Sequential(*parts[:-1]),
            MaskedVisionTransformerTorchvision(vit, unused, **how),
            vit.hidden_dim,
            vit.patch_size,
        )
    if isinstance(vit, Timm) and vit.num_prefix_tokens == 1:
        unused = nn.Parameter(torch.zeros(1, 1, vit.embed_dim), requires_grad=False)
        masked = MaskedVisionTransformerTIMM(vit, unused, **how)
        return nn.Sequential(*parts[:-1]), masked, vit.embed_dim, vit.patch_embed.patch_size[0]
    raise UserError(
        "mae: this network is no vision transformer with a class token",
        "Take vit_tiny or vit_b_16, or another trainer: simclr, moco, byol, simsiam.",
        exit_code=1,
    )
