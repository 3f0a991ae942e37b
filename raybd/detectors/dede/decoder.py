"""DeDe's network: a transformer sees a few patches of an image, a second one paints the others from them and from an embedding.

Hou, Li and Yao 2025, arXiv 2411.16154, after the masked autoencoder of He et al. 2022, arXiv 2111.06377.
In shapes: T patches (tokens) of an image, P values of a patch (colour, row, column), K patches that are seen.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from raybd.distributed import group
from raybd.training.inference import infer
from raybd.types.errors import UserError
from raybd.types.models import Victim

Region = tuple[int, int, int, int]
"""Top, bottom, left, right in pixels, as in `x[top:bottom, left:right]`."""
Normalisation = Literal["raw", "std", "l2", "layernorm"]
Target = Literal["pixels", "normalised_patches", "low_passed"]


def visible_count(tokens: int, ratio: float) -> int:
    """How many patches are seen where this share is hidden. 20 * (1 - 0.9) must not become 1 by rounding."""
    return int(tokens * (1 - ratio) + 1e-9)


def to_patches(x_BCHW: Tensor, patch: int) -> Tensor:
    """Images -> patch_BTP, in reading order."""
    return F.unfold(x_BCHW, patch, stride=patch).transpose(1, 2)


def to_images(patch_BTP: Tensor, patch: int) -> Tensor:
    """Undo `to_patches`, for square images."""
    side = patch * round(patch_BTP.shape[1] ** 0.5)
    return F.fold(patch_BTP.transpose(1, 2), side, patch, stride=patch)


def take(token_BTD: Tensor, seen_BK: Tensor) -> Tensor:
    """The tokens that are seen, in the order of `seen_BK`."""
    return token_BTD.gather(1, seen_BK[..., None].expand(-1, -1, token_BTD.shape[2]))


def put_back(token_BKD: Tensor, seen_BK: Tensor, missing_BTD: Tensor) -> Tensor:
    """Undo `take`, with `missing_BTD` where nothing was seen."""
    return missing_BTD.to(token_BKD.dtype).scatter(
        1, seen_BK[..., None].expand_as(token_BKD), token_BKD
    )


def hidden(seen_BK: Tensor, tokens: int) -> Tensor:
    """1 where a patch is hidden, 0 where it is seen; B x T."""
    return torch.ones(len(seen_BK), tokens, device=seen_BK.device).scatter(1, seen_BK, 0.0)


def normalised(z_ND: Tensor, kind: Normalisation, deviation: float) -> Tensor:
    """Embeddings as the decoder takes them; `deviation` is that of all values of the auxiliary embeddings."""
    if kind == "l2":
        return F.normalize(z_ND)
    if kind == "layernorm":
        return F.layer_norm(z_ND, z_ND.shape[1:])
    return z_ND / deviation if kind == "std" else z_ND


class MaskedDecoder(nn.Module):
    """Patches that are seen, and an embedding -> all patches, normalised with its own mean and deviation of the pixels."""

    mean_C: Tensor
    std_C: Tensor

    def __init__(
        self,
        mean_C: Tensor,
        std_C: Tensor,
        *,
        side: int,
        patch: int,
        values: int,
        width: int,
        heads: int,
        encoder_depth: int,
        decoder_depth: int,
        target: Target = "pixels",
        coarse: int = 8,
    ) -> None:
        super().__init__()
        self.patch, self.target, self.coarse, self.tokens = (
            patch,
            target,
            coarse,
            (side // patch) ** 2,
        )
        self.register_buffer("mean_C", mean_C.float())
        self.register_buffer("std_C", std_C.float())
        self.encoder = _PatchEncoder(self.tokens, 3 * patch**2, width, heads, encoder_depth)
        self.condition = nn.Linear(values, width, bias=False)
        self.missing_D = _position(width)
        self.position_TD = _position(self.tokens + 1, width)
        self.blocks = nn.Sequential(*(_block(width, heads) for _ in range(decoder_depth)))
        self.predict = nn.Linear(width, 3 * patch**2)

    def preprocess(self, x_BCHW: Tensor) -> Tensor:
        """uint8 images -> the space in which they are completed."""
        return (x_BCHW.float().div(255) - self.mean_C.view(-1, 1, 1)) / self.std_C.view(-1, 1, 1)

    def forward(self, x_BCHW: Tensor, z_BD: Tensor, seen_BK: Tensor) -> Tensor:
        """uint8 images, embeddings and the patches that are seen -> patch_BTP, a guess at `wanted`."""
        with _attention(x_BCHW.device):
            token_BTD = self.missing_D.expand(len(z_BD), self.tokens, -1)
            if seen_BK.shape[1]:
                seen_BKP = take(to_patches(self.preprocess(x_BCHW), self.patch), seen_BK)
                token_BTD = put_back(self.encoder(seen_BKP, seen_BK), seen_BK, token_BTD)
            first_B1D = self.condition(z_BD)[:, None].to(token_BTD.dtype)
            token_BTD = self.blocks(torch.cat([first_B1D, token_BTD], 1) + self.position_TD)[:, 1:]
            guess_BTP: Tensor = self.predict(token_BTD)
        return guess_BTP.float()

    def wanted(self, x_BCHW: Tensor) -> Tensor:
        """uint8 images -> what their patches should be completed to."""
        x_BCHW = self.preprocess(x_BCHW)
        if self.target == "low_passed":
            small = F.adaptive_avg_pool2d(x_BCHW, min(self.coarse, x_BCHW.shape[-1]))
            x_BCHW = F.interpolate(small, size=x_BCHW.shape[-2:], mode="bilinear")
        patch_BTP = to_patches(x_BCHW, self.patch)
        if self.target == "normalised_patches":
            deviation_BT1, mean_BT1 = _moments(patch_BTP)
            return (patch_BTP - mean_BT1) / deviation_BT1
        return patch_BTP

    def errors(self, x_BCHW: Tensor, z_BD: Tensor, seen_BK: Tensor) -> Tensor:
        """Sum of squared errors in each patch, 0 in those that are seen; B x T."""
        return square_errors(self(x_BCHW, z_BD, seen_BK), self.wanted(x_BCHW), seen_BK)

    def painted(self, x_BCHW: Tensor, z_BD: Tensor, seen_BK: Tensor) -> tuple[Tensor, Tensor]:
        """What is seen of the images (the rest gray), and the images as completed; uint8."""
        true_BTP, guess_BTP = (
            to_patches(self.preprocess(x_BCHW), self.patch),
            self(x_BCHW, z_BD, seen_BK),
        )
        if self.target == "normalised_patches":
            deviation_BT1, mean_BT1 = _moments(true_BTP)
            guess_BTP = guess_BTP * deviation_BT1 + mean_BT1
        hidden_BT1 = hidden(seen_BK, self.tokens)[..., None]
        gray_BTP = to_patches(
            ((0.5 - self.mean_C) / self.std_C).view(1, -1, 1, 1).expand_as(x_BCHW), self.patch
        )
        seen_BCHW, whole_BCHW = (
            self._pixels(torch.lerp(true_BTP, other, hidden_BT1)) for other in (gray_BTP, guess_BTP)
        )
        return seen_BCHW, whole_BCHW

    def _pixels(self, patch_BTP: Tensor) -> Tensor:
        x_BCHW = to_images(patch_BTP, self.patch) * self.std_C.view(-1, 1, 1) + self.mean_C.view(
            -1, 1, 1
        )
        return x_BCHW.mul(255).round().clamp(0, 255).to(torch.uint8)


class _PatchEncoder(nn.Module):
    """Patches that are seen -> one token for each. A class token takes part and is dropped."""

    def __init__(self, tokens: int, pixels: int, width: int, heads: int, depth: int) -> None:
        super().__init__()
        self.embed = nn.Linear(pixels, width)
        self.position_TD = _position(tokens, width)
        self.class_11D = _position(1, 1, width) if depth else None
        self.blocks = nn.Sequential(*(_block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)

    def forward(self, seen_BKP: Tensor, seen_BK: Tensor) -> Tensor:
        """Patches and where they are -> token_BKD."""
        token_BKD: Tensor = self.embed(seen_BKP) + self.position_TD[seen_BK]
        if self.class_11D is not None:
            token_BKD = self.blocks(
                torch.cat([self.class_11D.expand(len(token_BKD), -1, -1), token_BKD], 1)
            )[:, 1:]
        token_BKD = self.norm(token_BKD)
        return token_BKD


def square_errors(guess_BTP: Tensor, wanted_BTP: Tensor, seen_BK: Tensor) -> Tensor:
    """Sum of squared errors in each patch, 0 in those that are seen; B x T."""
    return torch.square(guess_BTP - wanted_BTP).sum(2) * hidden(seen_BK, wanted_BTP.shape[1])


@torch.no_grad()
def error_maps(model: MaskedDecoder, x_NCHW: Tensor, z_ND: Tensor, masks_MK: Tensor) -> Tensor:
    """Errors in each patch, the mean over some masks that all images share; N x T, float32, on the CPU.

    Sharded over the workers; every worker gets all rows.
    """
    device = group.device()
    model.to(device).eval()
    parts = []
    for rows_B in group.batches(len(x_NCHW), max(1, 2**15 // model.tokens)):
        x_BCHW, z_BD = (
            x_NCHW[rows_B].to(device, non_blocking=True),
            z_ND[rows_B].to(device, non_blocking=True),
        )
        each = [
            model.errors(x_BCHW, z_BD, seen_K.to(device).expand(len(rows_B), -1))
            for seen_K in masks_MK
        ]
        parts.append(torch.stack(each).mean(0))
    return group.gather_rows(torch.cat(parts), len(x_NCHW)).cpu()


@dataclass(frozen=True)
class Painter:
    """A victim and the decoder that was trained on its embeddings."""

    victim: Victim
    model: MaskedDecoder
    embedding: Normalisation
    deviation: float
    side: int
    masks_MK: Tensor
    """Patches that are seen in scoring; all images share them."""
    counted_T: Tensor
    """1 for patches that count."""
    strangers_JD: Tensor
    """Embeddings of other images that errors are divided by; none where they are not."""

    def embed(self, x_NCHW: Tensor) -> Tensor:
        """Embeddings as the decoder takes them."""
        return normalised(
            infer(self.victim, x_NCHW, self.victim.embed), self.embedding, self.deviation
        )

    def maps(self, x_NCHW: Tensor, z_ND: Tensor) -> Tensor:
        """Squared error of each patch, given these embeddings; N x T."""
        return (
            error_maps(self.model, resized(x_NCHW, self.side), z_ND, self.masks_MK) * self.counted_T
        )

    def mismatched(self, x_NCHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of each image the error, the error when it is painted from another one's embedding, and what both are divided by."""
        z_ND = self.embed(x_NCHW)
        own_N, other_N = (self.maps(x_NCHW, z_ND).sum(1) for z_ND in (z_ND, z_ND.roll(1, 0)))
        return own_N, other_N, self.unit(x_NCHW)

    def unit(self, x_NCHW: Tensor) -> Tensor:
        """What the sum of an image's errors is divided by: 1, or its mean when the embeddings of other images are given."""
        if not len(self.strangers_JD):
            return torch.ones(len(x_NCHW))
        each = [self.maps(x_NCHW, z_D.expand(len(x_NCHW), -1)).sum(1) for z_D in self.strangers_JD]
        return torch.stack(each).mean(0).clamp_min(1e-6)

    def score(self, x_NCHW: Tensor) -> Tensor:
        """Suspicion of each image."""
        return self.maps(x_NCHW, self.embed(x_NCHW)).sum(1) / self.unit(x_NCHW)

    @property
    def pixels(self) -> float:
        """How many values are hidden and count, in the mean over the masks."""
        return (
            float((hidden(self.masks_MK, self.model.tokens) * self.counted_T).sum(1).mean())
            * 3
            * self.model.patch**2
        )

    @torch.no_grad()
    def pictures(self, x_NCHW: Tensor) -> dict[str, Tensor]:
        """A few images as they are, as far as the decoder sees them, and as it paints them; uint8, at its size."""
        z_ND, x_NCHW = self.embed(x_NCHW), resized(x_NCHW, self.side)
        seen_NCHW, painted_NCHW = self.model.cpu().painted(
            x_NCHW, z_ND, self.masks_MK[:1].expand(len(x_NCHW), -1)
        )
        return {"input": x_NCHW, "masked": seen_NCHW, "reconstruction": painted_NCHW}


def resized(x_NCHW: Tensor, side: int) -> Tensor:
    """Square images of this side, uint8."""
    if x_NCHW.shape[-1] == side:
        return x_NCHW
    parts = [
        F.interpolate(part.float(), size=(side, side), mode="bilinear", antialias=True)
        for part in x_NCHW.split(1000)
    ]
    return torch.cat([part.round().clamp(0, 255).to(torch.uint8) for part in parts])


def outside(skip: Region | None, image_side: int, side: int, patch: int) -> Tensor:
    """1 for each patch, 0 for those that touch the region; the region lies in an image of another side."""
    if skip is None:
        return torch.ones((side // patch) ** 2)
    top, bottom, left, right = skip
    touched_HW = torch.zeros(image_side, image_side)
    touched_HW[top:bottom, left:right] = 1
    resized_HW = F.interpolate(touched_HW[None, None], size=(side, side), mode="area")
    outside_T = 1 - F.max_pool2d(resized_HW, patch).flatten().gt(0).float()
    if not outside_T.any():
        raise UserError(
            f"dede: every patch touches the region {skip}",
            "Choose a smaller skip or patch.",
            exit_code=1,
        )
    return outside_T


def _block(width: int, heads: int) -> nn.Module:
    return nn.TransformerEncoderLayer(
        width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True
    )


def _attention(device: torch.device) -> AbstractContextManager[None]:
    # On a CPU torch's fused attention is slow backwards in bf16: 0.61 s a step, not 0.33 (width 96, 128 images, torch 2.15).
    if device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        return sdpa_kernel(SDPBackend.MATH)
    return nullcontext()


def _position(*shape: int) -> nn.Parameter:
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(shape), std=0.02))


def _moments(patch_BTP: Tensor) -> tuple[Tensor, Tensor]:
    return (patch_BTP.var(2, keepdim=True) + 1e-6).sqrt(), patch_BTP.mean(2, keepdim=True)
