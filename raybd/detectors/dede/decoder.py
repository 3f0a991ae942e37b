"""DeDe's network: from a few patches of an image and its embedding, it reconstructs the others.

One transformer sees the patches, a second one reconstructs.

Hou, Li and Yao 2025, arXiv 2411.16154, after the masked autoencoder of He et al. 2022, arXiv
2111.06377.
In shapes: T patches (tokens) of an image, P values of a patch (colour, row, column), K patches that
are seen.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

Normalisation = Literal["raw", "std", "l2", "layernorm"]
Target = Literal["pixels", "normalised_patches", "low_passed"]


def visible_count(tokens: int, ratio: float) -> int:
    """Return how many patches are seen if this share is hidden."""
    return int(tokens * (1 - ratio) + 1e-9)  # 20 * (1 - 0.9) must not become 1 by rounding


def to_patches(x_BCHW: Tensor, patch: int) -> Tensor:
    """Return the patches of images, patch_BTP, in reading order."""
    return F.unfold(x_BCHW, patch, stride=patch).transpose(1, 2)


def to_images(patch_BTP: Tensor, patch: int) -> Tensor:
    """Undo `to_patches`, for square images."""
    side = patch * round(patch_BTP.shape[1] ** 0.5)
    return F.fold(patch_BTP.transpose(1, 2), side, patch, stride=patch)


def take(token_BTD: Tensor, seen_BK: Tensor) -> Tensor:
    """Return the tokens that are seen, in the order of `seen_BK`."""
    return token_BTD.gather(1, seen_BK[..., None].expand(-1, -1, token_BTD.shape[2]))


def put_back(token_BKD: Tensor, seen_BK: Tensor, missing_BTD: Tensor) -> Tensor:
    """Undo `take`, with `missing_BTD` where nothing was seen."""
    # Under autocast the tokens are bf16, and `scatter` takes one dtype only.
    return missing_BTD.to(token_BKD.dtype).scatter(
        1, seen_BK[..., None].expand_as(token_BKD), token_BKD
    )


def hidden(seen_BK: Tensor, tokens: int) -> Tensor:
    """Return 1 for each patch that is hidden, 0 for each that is seen; B x T."""
    return torch.ones(len(seen_BK), tokens, device=seen_BK.device).scatter(1, seen_BK, 0.0)


def normalised(z_ND: Tensor, kind: Normalisation, deviation: float) -> Tensor:
    """Return embeddings as the decoder takes them.

    `deviation` is that of all values of the auxiliary embeddings.
    """
    if kind == "l2":
        return F.normalize(z_ND)
    if kind == "layernorm":
        return F.layer_norm(z_ND, z_ND.shape[1:])
    return z_ND / deviation if kind == "std" else z_ND


class MaskedDecoder(nn.Module):
    """Maps seen patches and an embedding to all patches.

    Pixels are normalised with its own mean and deviation.
    """

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
        self.patch = patch
        self.target = target
        self.coarse = coarse
        self.tokens = (side // patch) ** 2
        self.register_buffer("mean_C", mean_C.float())
        self.register_buffer("std_C", std_C.float())
        self.encoder = _PatchEncoder(self.tokens, 3 * patch**2, width, heads, encoder_depth)
        self.condition = nn.Linear(values, width, bias=False)
        self.missing_D = _position(width)
        # One more than the patches: the embedding takes the first place.
        self.position_TD = _position(self.tokens + 1, width)
        self.blocks = nn.Sequential(*(_block(width, heads) for _ in range(decoder_depth)))
        self.predict = nn.Linear(width, 3 * patch**2)

    def preprocess(self, x_BCHW: Tensor) -> Tensor:
        """Normalise uint8 images."""
        return (x_BCHW.float().div(255) - self.mean_C.view(-1, 1, 1)) / self.std_C.view(-1, 1, 1)

    def forward(self, x_BCHW: Tensor, z_BD: Tensor, seen_BK: Tensor) -> Tensor:
        """Return a guess at `wanted`, patch_BTP, from uint8 images, embeddings and seen patches."""
        with _attention(x_BCHW.device):
            token_BTD = self.missing_D.expand(len(z_BD), self.tokens, -1)
            # With nothing seen, the embedding is all that the decoder has.
            if seen_BK.shape[1]:
                seen_BKP = take(to_patches(self.preprocess(x_BCHW), self.patch), seen_BK)
                token_BTD = put_back(self.encoder(seen_BKP, seen_BK), seen_BK, token_BTD)
            first_B1D = self.condition(z_BD)[:, None].to(token_BTD.dtype)
            token_BTD = self.blocks(torch.cat([first_B1D, token_BTD], 1) + self.position_TD)[:, 1:]
            guess_BTP: Tensor = self.predict(token_BTD)
        # Errors are sums of many small squares, for which bf16 is too coarse.
        return guess_BTP.float()

    def wanted(self, x_BCHW: Tensor) -> Tensor:
        """Return what the patches of uint8 images should be reconstructed to."""
        x_BCHW = self.preprocess(x_BCHW)
        if self.target == "low_passed":
            # An image below this side has no finer details to lose.
            small = F.adaptive_avg_pool2d(x_BCHW, min(self.coarse, x_BCHW.shape[-1]))
            x_BCHW = F.interpolate(small, size=x_BCHW.shape[-2:], mode="bilinear")
        patch_BTP = to_patches(x_BCHW, self.patch)
        if self.target == "normalised_patches":
            deviation_BT1, mean_BT1 = _moments(patch_BTP)
            return (patch_BTP - mean_BT1) / deviation_BT1
        return patch_BTP

    def errors(self, x_BCHW: Tensor, z_BD: Tensor, seen_BK: Tensor) -> Tensor:
        """Return the sum of squared errors in each patch, 0 in those that are seen; B x T."""
        return square_errors(self(x_BCHW, z_BD, seen_BK), self.wanted(x_BCHW), seen_BK)

    def painted(self, x_BCHW: Tensor, z_BD: Tensor, seen_BK: Tensor) -> tuple[Tensor, Tensor]:
        """Return what is seen of the images (the rest gray), and their reconstruction; uint8."""
        true_BTP = to_patches(self.preprocess(x_BCHW), self.patch)
        guess_BTP = self(x_BCHW, z_BD, seen_BK)
        if self.target == "normalised_patches":
            # The decoder predicts a patch up to its moments, so that it borrows the true ones.
            deviation_BT1, mean_BT1 = _moments(true_BTP)
            guess_BTP = guess_BTP * deviation_BT1 + mean_BT1

        gray_C = (0.5 - self.mean_C) / self.std_C
        gray_BTP = to_patches(gray_C.view(1, -1, 1, 1).expand_as(x_BCHW), self.patch)
        hidden_BT1 = hidden(seen_BK, self.tokens)[..., None]
        seen_BCHW = self._pixels(torch.lerp(true_BTP, gray_BTP, hidden_BT1))
        whole_BCHW = self._pixels(torch.lerp(true_BTP, guess_BTP, hidden_BT1))
        return seen_BCHW, whole_BCHW

    def _pixels(self, patch_BTP: Tensor) -> Tensor:
        std_C11 = self.std_C.view(-1, 1, 1)
        mean_C11 = self.mean_C.view(-1, 1, 1)
        x_BCHW = to_images(patch_BTP, self.patch) * std_C11 + mean_C11
        return x_BCHW.mul(255).round().clamp(0, 255).to(torch.uint8)


class _PatchEncoder(nn.Module):
    """Maps each seen patch to a token. A class token takes part and is dropped."""

    def __init__(self, tokens: int, pixels: int, width: int, heads: int, depth: int) -> None:
        super().__init__()
        self.embed = nn.Linear(pixels, width)
        self.position_TD = _position(tokens, width)
        # Without blocks no token looks at another one, so that a class token would have no effect.
        self.class_11D = _position(1, 1, width) if depth else None
        self.blocks = nn.Sequential(*(_block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)

    def forward(self, seen_BKP: Tensor, seen_BK: Tensor) -> Tensor:
        """Return token_BKD from patches and their places."""
        token_BKD: Tensor = self.embed(seen_BKP) + self.position_TD[seen_BK]
        if self.class_11D is not None:
            token_BKD = self.blocks(
                torch.cat([self.class_11D.expand(len(token_BKD), -1, -1), token_BKD], 1)
            )[:, 1:]
        token_BKD = self.norm(token_BKD)
        return token_BKD


def square_errors(guess_BTP: Tensor, wanted_BTP: Tensor, seen_BK: Tensor) -> Tensor:
    """Return the sum of squared errors in each patch, 0 in those that are seen; B x T."""
    return torch.square(guess_BTP - wanted_BTP).sum(2) * hidden(seen_BK, wanted_BTP.shape[1])


def _block(width: int, heads: int) -> nn.Module:
    return nn.TransformerEncoderLayer(
        width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True
    )


def _attention(device: torch.device) -> AbstractContextManager[None]:
    # On a CPU the backward pass of torch's fused attention is slow in bf16: 0.61 s a step instead
    # of 0.33 (width 96, 128 images, torch 2.15).
    if device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        return sdpa_kernel(SDPBackend.MATH)
    return nullcontext()


def _position(*shape: int) -> nn.Parameter:
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(shape), std=0.02))


def _moments(patch_BTP: Tensor) -> tuple[Tensor, Tensor]:
    # The epsilon is that of masked autoencoders; a patch of one colour has no variance.
    return (patch_BTP.var(2, keepdim=True) + 1e-6).sqrt(), patch_BTP.mean(2, keepdim=True)
