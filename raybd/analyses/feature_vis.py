"""Feature visualisation: the image that excites a unit most.

Olah, Mordvintsev and Schubert 2017, "Feature visualization", Distill, sections on regularisation
and preconditioning: ascent on Fourier coefficients, under small moves of the image.
Differs: any layer of any network; the units are those that the trigger changes most (TAC), or named
ones; colours are not decorrelated. A unit that is silent on noise has no gradient: its image stays
grey, and its objective 0.
"""

from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor

from raybd.analyses._needs import need_pairs, unit_layer
from raybd.distributed import group
from raybd.training.layers import activations, by_position, reading
from raybd.types.data import Split
from raybd.types.errors import UserError
from raybd.types.methods import Analysis, AnalysisInput
from raybd.types.models import Victim

if TYPE_CHECKING:
    import pyarrow as pa


class FeatureVis(Analysis):
    """Ascend from noise to the image on which the mean activation of a unit is largest."""

    needs_trigger: ClassVar[bool] = True
    looks_at_twin: ClassVar[bool] = True
    layer: str = "last_map"
    """Dotted name of a module of the encoder, or last_map: the last feature map."""
    units: int = Field(4, ge=1, le=64)
    """How many units, those that the trigger changes most."""
    named: tuple[int, ...] = ()
    """Units by number, in place of those."""
    images: int = Field(200, ge=1)
    """Largest number of pairs that show which units the trigger changes most."""
    steps: int = Field(300, ge=1)
    """Steps of Adam."""
    lr: float = Field(0.05, gt=0)
    """Learning rate."""
    l1: float = Field(0.15, ge=0)
    """Weight of the mean distance of a pixel (in 0..1) from grey."""
    tv: float = Field(0.25, ge=0)
    """Weight of the mean difference of neighbours (total variation)."""
    jitter: int = Field(4, ge=0)
    """Largest shift of the image in a step, in pixels."""
    scale: float = Field(0.05, ge=0, lt=1)
    """Largest relative change of the image's size in a step."""

    def analyse(self, given: AnalysisInput, rng: Generator) -> "pa.Table":
        """Return a row for each unit: its mean activation on the image found, and the image.

        `objective` is without penalties, on the image as it is. `image` holds bytes, height x width
        x channels. Raises UserError for an unknown layer or unit.
        """
        import pyarrow as pa

        victim, pairs = given.victim, given.pairs
        need_pairs("feature_vis", pairs)
        name = unit_layer("feature_vis", victim, self.layer, pairs.x_MCHW[:2])
        unit_U = self._units(given, name)
        channels, height, width = pairs.x_MCHW.shape[1:]
        # Drawn for all units, then divided: the number of workers plays no part.
        noise = torch.randn((len(unit_U), channels, height, width // 2 + 1, 2), generator=rng)
        mine = group.shard(torch.arange(len(unit_U)))
        found_UCHW = self._ascend(victim, name, unit_U[mine], noise[mine], (height, width), rng)
        x_UCHW = group.gather_rows(found_UCHW, len(unit_U)).cpu()

        split = Split(x_UCHW, torch.zeros(len(unit_U), dtype=torch.int64))
        reached_UU = activations(victim, split, [name], _mean)[name][:, unit_U]
        image_UP = x_UCHW.permute(0, 2, 3, 1).flatten(1)
        return pa.table(
            {
                "layer": [name] * len(unit_U),
                "unit": pa.array(unit_U.tolist(), pa.int32()),
                "objective": pa.array(reached_UU.diagonal().tolist(), pa.float32()),
                "height": pa.array([height] * len(unit_U), pa.int32()),
                "width": pa.array([width] * len(unit_U), pa.int32()),
                "image": pa.array(list(image_UP.numpy()), pa.list_(pa.uint8())),
            }
        )

    def _units(self, given: AnalysisInput, name: str) -> Tensor:
        """Return the named units, or those of the largest change by the trigger (TAC)."""
        pairs, victim = given.pairs, given.victim
        label_M = pairs.y_M[: self.images]
        read = [
            activations(victim, Split(x_MCHW[: self.images], label_M), [name], _units)[name]
            for x_MCHW in (pairs.x_MCHW, pairs.worn_MCHW)
        ]
        change_C = (read[1] - read[0]).norm(dim=2).mean(0)
        unknown = [unit for unit in self.named if not 0 <= unit < len(change_C)]
        if unknown:
            raise UserError(
                f"feature_vis: {name} has {len(change_C)} units, and no unit {unknown[0]}",
                "Count from 0.",
                exit_code=1,
            )
        if self.named:
            return torch.tensor(self.named)
        order_C: Tensor = change_C.argsort(descending=True, stable=True)
        return order_C[: self.units]

    def _ascend(
        self,
        victim: Victim,
        name: str,
        unit_U: Tensor,
        noise: Tensor,
        size: tuple[int, int],
        rng: Generator,
    ) -> Tensor:
        """Return an image for each unit, uint8."""
        device = group.device()
        victim.to(device).eval()
        wave = (0.01 * noise).to(device).requires_grad_()
        decay = _decay(size).to(device)
        adam = torch.optim.Adam([wave], self.lr)
        row_U = torch.arange(len(unit_U))

        for _ in range(self.steps):
            # On every worker, also one without a unit: all draw the same.
            shift = torch.randint(-self.jitter, self.jitter + 1, (2,), generator=rng).tolist()
            factor = 1 + self.scale * float(2 * torch.rand(1, generator=rng) - 1)
            if not len(unit_U):
                continue
            x_UCHW = _image(wave, decay, size)
            moved = _resized(x_UCHW.roll(shift, (2, 3)), factor)
            with reading(victim, [name], _mean) as seen:
                victim.embed(255 * moved)
            gained_U = seen[name][row_U, unit_U.to(device)]
            away_U = (x_UCHW - 0.5).abs().mean((1, 2, 3))
            rough_U = x_UCHW.diff(dim=2).abs().mean((1, 2, 3))
            rough_U = rough_U + x_UCHW.diff(dim=3).abs().mean((1, 2, 3))
            loss = (self.l1 * away_U + self.tv * rough_U - gained_U).sum()
            adam.zero_grad()
            wave.grad = torch.autograd.grad(loss, wave)[0]
            adam.step()
        return (255 * _image(wave.detach(), decay, size)).round().to(torch.uint8)


def _units(out: Tensor) -> Tensor:
    """Return units at positions, B x C x T; a vector has one position."""
    return out.unsqueeze(2) if out.ndim == 2 else by_position(out)


def _mean(out: Tensor) -> Tensor:
    """Return the mean activation of each unit, B x C."""
    return _units(out).mean(2)


def _decay(size: tuple[int, int]) -> Tensor:
    """Return one over each frequency: as in natural images, so that slow ones are learned first."""
    height, width = size
    fy = torch.fft.fftfreq(height)[:, None]
    fx = torch.fft.rfftfreq(width)[None]
    decay: Tensor = 1 / (fy**2 + fx**2).sqrt().clamp_min(1 / max(size))
    return decay


def _image(wave: Tensor, decay: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the images of Fourier coefficients, in 0..1."""
    free: Tensor = torch.fft.irfft2(torch.view_as_complex(wave) * decay, s=size, norm="ortho")
    return free.sigmoid()


def _resized(x_NCHW: Tensor, factor: float) -> Tensor:
    """Return images that are larger or smaller, cut or continued to the size that they had."""
    height, width = x_NCHW.shape[-2:]
    scaled = F.interpolate(x_NCHW, scale_factor=factor, mode="bilinear", align_corners=False)
    down, across = height - scaled.shape[2], width - scaled.shape[3]
    # A negative pad cuts.
    pads = [across // 2, across - across // 2, down // 2, down - down // 2]
    return F.pad(scaled, pads, mode="replicate")
