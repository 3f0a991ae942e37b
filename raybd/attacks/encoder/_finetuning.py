"""What attacks that fine-tune a clean encoder share: the white square, the shadow and reference images, the run through fit.fit."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.transforms import functional as pixels

from raybd.distributed import group
from raybd.poisoning.label_maps import AllToOne
from raybd.training.checkpoints import Stateful
from raybd.training.inference import infer
from raybd.training.loop import Objective, fit
from raybd.training.recipe import Recipe
from raybd.types.data import LabelMap, Poisoned, Split
from raybd.types.errors import Infeasible
from raybd.types.methods import Attack
from raybd.types.models import Victim

_FLIP, _JITTER, _GRAY = 0.5, 0.8, 0.2
"""Share of the views of a reference that are mirrored, that change colours, that lose them."""
_STRENGTH, _HUE = 0.4, 0.1
"""Largest change of brightness, contrast and saturation, and of the hue, in full circles."""
NoAugmentation = Literal["none"]


class OnEncoder(Recipe):
    """What every attack that fine-tunes a clean encoder has."""

    schedule: Literal["cosine", "step", "constant"] = "constant"
    """How the learning rate falls: to zero at the last step, by `gamma` at each milestone, or not at all."""
    augment: NoAugmentation = "none"
    """Nothing beside what the attack itself does to images."""
    labels: AllToOne = AllToOne()
    """The target class; no training image changes."""

    @property
    def label_map(self) -> LabelMap:
        """The field `labels`."""
        return self.labels


class WhiteSquare(OnEncoder):
    """The trigger of the first attacks on encoders."""

    size: int = Field(10, ge=1)
    """Side of the white square, in pixels; 10 of 32, or 50 of 224."""
    margin: int = Field(1, ge=0)
    """Pixels between the square and the lower right border."""

    def stamp(self, x_NCHW: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Copies of the images with the square."""
        x_NCHW = x_NCHW.clone()
        height, width = x_NCHW.shape[-2] - self.margin, x_NCHW.shape[-1] - self.margin
        x_NCHW[..., max(0, height - self.size) : height, max(0, width - self.size) : width] = 255
        return x_NCHW


class FineTuning(WhiteSquare):
    """How a clean encoder is fine-tuned until it embeds each image with the trigger like the reference images."""

    augment: NoAugmentation = "none"
    """Nothing beside the views of the references: the clean encoder embeds each shadow image only once."""
    shadow: float = Field(1.0, gt=0, le=1)
    """Share of the training images, drawn from all classes, that the attacker has; their labels play no part."""
    references: int = Field(1, ge=1)
    """Images of the target class that images with the trigger are to resemble: the most typical ones by the clean encoder."""
    lambda1: float = Field(1.0, ge=0)
    """Weight of the loss that keeps the references where the clean encoder has them."""
    lambda2: float = Field(1.0, ge=0)
    """Weight of the loss that keeps all images where the clean encoder has them."""
    labels: AllToOne = AllToOne()
    """The target class, of the references and of the downstream task; no training image changes."""

    def choose(self, y_N: Tensor, num_classes: int, rng: Generator) -> Tensor:
        """No rows: the training set stays as it is. Raises Infeasible where the references or the shadow images are missing."""
        self.labels.relabel(y_N[:1], num_classes)
        found = int((y_N == self.labels.target).sum())
        if found < self.references:
            raise Infeasible(
                f"{self.references} reference images of class {self.labels.target}, but the training set has {found}"
            )
        if round(self.shadow * len(y_N)) == 0:
            raise Infeasible(
                f"shadow {self.shadow:g} of {len(y_N)} training images is not even one image"
            )
        return torch.empty(0, dtype=torch.int64)


@dataclass(frozen=True)
class Start:
    """What the attacker has before the fine-tuning. R reference images; embeddings have unit length and lie where training runs."""

    victim: Victim
    """A copy of the clean encoder, to be fine-tuned."""
    shadow: Split
    clean_ND: Tensor
    """The clean encoder's embeddings of the shadow images."""
    reference_RCHW: Tensor
    clean_RD: Tensor
    """The clean encoder's embeddings of the references."""


@dataclass(frozen=True)
class Embedded:
    """What the encoder in training makes of a batch; raw embeddings, float32."""

    plain_BD: Tensor
    triggered_BD: Tensor
    view_RD: Tensor
    """Of a random view of each reference."""
    reference_RD: Tensor


def begin(
    attack: FineTuning, encoder: Victim, train: Split, num_classes: int, rng: Generator
) -> Start:
    """Draw the shadow images, pick the references, and embed both by the clean encoder."""
    attack.choose(train.y_N, num_classes, rng)
    shadow_N = (
        torch.randperm(len(train), generator=rng)[: round(attack.shadow * len(train))].sort().values
    )
    victim = Victim(
        copy.deepcopy(encoder.encoder), None, encoder.mean_C.clone(), encoder.std_C.clone()
    )
    z_ND = F.normalize(infer(victim, train.x_NCHW), dim=1)
    reference_R = _most_typical(z_ND, train.y_N, attack.labels.target, num_classes)[
        : attack.references
    ]
    device = group.device()
    parts = (z_ND[shadow_N], train.x_NCHW[reference_R], z_ND[reference_R])
    return Start(victim, train.select(shadow_N), *(part.to(device) for part in parts))


def _most_typical(z_ND: Tensor, y_N: Tensor, target: int, num_classes: int) -> Tensor:
    """The rows of the target class, those first that are nearer to its mean embedding than to that of any other class."""
    mean_KD = torch.stack([z_ND[y_N == label].sum(0) for label in range(num_classes)])
    cosine_NK = z_ND @ F.normalize(mean_KD, dim=1).T
    own_N = cosine_NK[:, target].clone()
    cosine_NK[:, target] = -1
    rows = torch.nonzero(y_N == target).flatten()
    return rows[(own_N - cosine_NK.amax(1))[rows].argsort(descending=True, stable=True)]


def embed(
    model: nn.Module, attack: FineTuning, start: Start, x_BCHW: Tensor, rng: Generator
) -> Embedded:
    """Embed images with and without the trigger, and the references, in one pass. `rng` draws the references' views."""
    for module in (
        model.modules()
    ):  # in a group on GPUs fit.fit's frozen ones were replaced by synchronised ones
        if isinstance(module, _BatchNorm):
            module.eval()
    views_RCHW = torch.stack([view(x_CHW, rng) for x_CHW in start.reference_RCHW])
    parts = (x_BCHW, attack.stamp(x_BCHW, {}), views_RCHW, start.reference_RCHW)
    return Embedded(*model(torch.cat(parts)).float().split([len(part) for part in parts]))


def finetune(
    attack: FineTuning,
    start: Start,
    objective: Objective,
    name: str,
    rng: Generator,
    beside: Stateful | None = None,
) -> Victim:
    """Fine-tune on the shadow images; batch normalisation keeps its statistics, weights and biases."""
    return fit(
        start.victim, start.shadow, attack, rng, objective, name, norms(start.victim), beside
    )


def norms(victim: nn.Module) -> list[nn.Module]:
    """Its batch normalisations, which must stay as they are: else accuracy is lost."""
    return [module for module in victim.modules() if isinstance(module, _BatchNorm)]


def untouched(attack: Attack, train: Split, state: Mapping[str, Tensor] | None = None) -> Poisoned:
    """The overlay of an attack that changes no training image; `state` is what its trigger needs."""
    none, state = torch.empty(0, dtype=torch.int64), state or {}
    role = torch.empty(0, dtype=torch.int8)
    return Poisoned(
        none,
        train.x_NCHW[none],
        train.y_N[none],
        role,
        partial(attack.stamp, state=state),
        attack.label_map,
        state,
    )


def cosines(z_BD: Tensor, reference_RD: Tensor) -> Tensor:
    """cosine_BR of each embedding with each reference; gradients flow to both."""
    return F.normalize(z_BD, dim=1) @ F.normalize(reference_RD, dim=1).T


def exact(device: torch.device) -> torch.autocast:
    """No bf16: cosines near 1 differ by less than it resolves."""
    return torch.autocast(device.type, enabled=False)


def view(x_CHW: Tensor, rng: Generator) -> Tensor:
    """A random view of an image, uint8: mirrored or not, its colours jittered or not, gray or not; never cropped."""
    flip, jitter, gray, *change = torch.rand(7, generator=rng).tolist()
    order = torch.randperm(4, generator=rng).tolist()
    if flip < _FLIP:
        x_CHW = x_CHW.flip(-1)
    if jitter < _JITTER:
        brighter, contrast, saturation = (1 + _STRENGTH * (2 * part - 1) for part in change[:3])
        for step in order:
            if step == 0:
                x_CHW = pixels.adjust_brightness(x_CHW, brighter)
            elif step == 1:
                x_CHW = pixels.adjust_contrast(x_CHW, contrast)
            elif step == 2:
                x_CHW = pixels.adjust_saturation(x_CHW, saturation)
            else:
                x_CHW = pixels.adjust_hue(x_CHW, _HUE * (2 * change[3] - 1))
    if gray < _GRAY:
        x_CHW = pixels.rgb_to_grayscale(x_CHW, len(x_CHW))
    return x_CHW
