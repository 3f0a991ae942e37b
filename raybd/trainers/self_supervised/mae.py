"""MAE: a vision transformer sees a quarter of the patches; a small decoder completes the image.

He, Chen, Xie, Li, Dollar and Girshick 2022, arXiv 2111.06377, section 3 and appendix A.1. Masked
encoder and decoder are lightly's.
Recipe: solo-learn's for CIFAR-10 (AdamW 2e-4 at batch 256, weight decay 0.05, mask 0.75, crops and
flips alone). No result of it is published; without fine-tuning such features are weak (lightly,
Imagenette, 800 epochs: kNN 0.610 against 0.889 of SimCLR).
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
        """Return an encoder trained on the images of the split.

        Raises UserError for a network that is no vision transformer.
        """
        victim = self.encoder(split, num_classes, network, rng)
        batch = self.batch(split)
        # Published weights come with positions that belong to them.
        fresh = not network.starts_pretrained
        completion = seeded(
            lambda: _Completion(victim.encoder, self.decoder_width, self.decoder_depth, fresh), rng
        )
        # At least one patch is hidden and one is seen, whatever the share and the patches.
        hidden = min(max(1, round(completion.patches * self.mask)), completion.patches - 1)

        def objective(model: nn.Module, x_BCHW: Tensor, y_B: Tensor, rows_B: Tensor) -> Tensor:
            view_BCHW = self.views.one(x_BCHW, batch, rng)
            # Sorting uniform numbers gives each image an order of its own, drawn for the whole
            # batch.
            drawn_BT = torch.rand(batch, completion.patches, generator=rng)
            order_BT = drawn_BT[group.shard(torch.arange(batch))].argsort(1)
            completion.hide(order_BT.to(x_BCHW.device), hidden)
            p_BTD = model(view_BCHW)
            with exact(p_BTD.device):
                pixels_BCHW = victim.preprocess(view_BCHW)
                patch_BTD = completion.hidden_patches(pixels_BCHW, self.normalise_patches)
                return torch.square(p_BTD.float() - patch_BTD).mean((1, 2))

        masked = Victim(completion, None, victim.mean_C, victim.std_C)
        fit(masked, split, self, rng, objective, name="mae")
        # lightly freezes the positions that it sets.
        encoder = victim.encoder.requires_grad_(True)
        return Victim(encoder, None, victim.mean_C.cpu(), victim.std_C.cpu()).eval()


class _Completion(nn.Module):
    """Preprocessed images -> the hidden patches, guessed by encoder and decoder from the others."""

    def __init__(self, encoder: nn.Module, width: int, depth: int, fresh: bool) -> None:
        from lightly.models.modules import MaskedVisionTransformerDecoderTIMM

        super().__init__()
        self.front, self.masked, values, self.patch = _masked(encoder, fresh)
        self.patches = self.masked.sequence_length - 1
        self.embed = nn.Linear(values, width)
        self.decoder = MaskedVisionTransformerDecoderTIMM(self.patches, width, depth, num_heads=16)
        self.predict = nn.Linear(width, 3 * self.patch**2)

    def hide(self, order_BT: Tensor, hidden: int) -> None:
        """Hide the first patches in this order, of the next images."""
        # Token 0 is the class token, which is always seen.
        self.hidden_BT = order_BT[:, :hidden] + 1
        kept_BT = order_BT[:, hidden:] + 1
        self.kept_BT = torch.cat([torch.zeros_like(kept_BT[:, :1]), kept_BT], 1)

    def hidden_patches(self, x_BCHW: Tensor, normalise: bool) -> Tensor:
        """Return the pixels of the hidden patches, perhaps each by its own mean and deviation."""
        from lightly.models.utils import get_at_index, normalize_mean_var, patchify

        # Behind the front, which may resize: the transformer's patches are those of its output.
        patches = patchify(self.front(x_BCHW).float(), self.patch)
        patch_BTD = get_at_index(patches, self.hidden_BT - 1)
        target_BTD: Tensor = normalize_mean_var(patch_BTD) if normalise else patch_BTD
        return target_BTD

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return a guess at the pixels of the hidden patches."""
        from lightly.models.utils import get_at_index, repeat_token, set_at_index

        seen_BTD = self.embed(self.masked.encode(self.front(x_BCHW), idx_keep=self.kept_BT))
        # Hidden patches all begin as the same token: only their positions tell them apart.
        shape = (len(x_BCHW), self.patches + 1)
        token_BTD = repeat_token(self.decoder.mask_token, shape).type_as(seen_BTD)
        decoded_BTD = self.decoder(set_at_index(token_BTD, self.kept_BT, seen_BTD))
        guess_BTD: Tensor = self.predict(get_at_index(decoded_BTD, self.hidden_BT))
        return guess_BTD


def _masked(encoder: nn.Module, fresh: bool) -> tuple[nn.Module, Any, int, int]:
    """Divide an encoder into what comes before the transformer, and the transformer.

    Returns both (the transformer so that it can skip tokens), its width and the side of a patch.
    Raises UserError for a network that is no vision transformer with a class token.
    """
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
        # lightly would add a mask token, but hidden patches never enter the encoder. Without a
        # gradient, no worker waits for one.
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
