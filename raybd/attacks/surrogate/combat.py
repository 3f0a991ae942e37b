"""COMBAT: a generator of faint triggers, trained in turns with a surrogate of the victim.

Huynh, Nguyen, Pham and Tran 2024, AAAI 2024, section on alternated training of generator and
surrogate. Only images of the target class are poisoned, and no label changes.
Differs: the noise is in grey levels, and the generator is trained through the rounding to them; the
generator is an auto-encoder with batch normalisation, in eval mode where the surrogate learns from
it; the surrogate is shown mirrored and shifted, not rotated, images; the blur of released images
and at test time has one deviation, where the authors draw it for each image.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor, nn

from raybd.attacks.training.input_aware.generator import new_auto_encoder, stored_auto_encoder
from raybd.distributed import ddp, group
from raybd.poisoning.attack import RatedAttack
from raybd.poisoning.drawing import draw_of_class
from raybd.poisoning.label_maps import CleanLabel
from raybd.poisoning.overlay import overlay
from raybd.poisoning.pixels import rounded_through, to_pixels
from raybd.poisoning.twin import classifier
from raybd.training.augmentation import Augment
from raybd.training.epochs import Epochs, Stream
from raybd.training.models import fresh_copy
from raybd.training.passes import only_read
from raybd.training.precision import bf16
from raybd.training.recipe import Recipe, new_optimizer, new_schedule
from raybd.types.data import LabelMap, Poisoned
from raybd.types.errors import Infeasible
from raybd.types.methods import AttackInput, RateBasis
from raybd.types.models import Victim

PREFIX = "generator."
BLUR_FROM = 0.1
BLUR_TO = 1.0
"""The deviation of the blur in training, in pixels: drawn anew for each step."""
HALF_RANGE = 127.5
"""Grey levels from the middle of the pixels' range to its ends: distances are those of -1..1."""


class Combat(RatedAttack):
    """Add a generated noise of low frequencies to images of the target class, and blur them."""

    rate_basis: ClassVar[RateBasis | None] = "of_class"
    needs_twin: ClassVar[bool] = True
    prepared_from: ClassVar[tuple[str, ...]] = (
        "target",
        "noise",
        "kept",
        "share",
        "clean_weight",
        "distance_weight",
        "epochs",
        "batch_size",
        "lr",
        "augment",
        "width",
    )
    rate: float = Field(0.5, gt=0, le=1)
    """Share of the target class that is poisoned."""
    target: int = Field(0, ge=0)
    """The target class; labels never change."""
    noise: float = Field(10.2, ge=0, le=255)
    """Largest value that the generator adds to a pixel, in grey levels, before it is smoothed."""
    kept: float = Field(0.65, gt=0, le=1)
    """Share of the frequencies along each side that the noise keeps, the lowest ones."""
    blur: float = Field(0.5, gt=0)
    """Deviation of the blur of poisoned images, and at test time, in pixels."""
    share: float = Field(0.5, ge=0, le=1)
    """Share of the target-class images of a batch that are poisoned for the surrogate."""
    clean_weight: float = Field(0.8, ge=0)
    """Weight of the loss of the clean twin, which shall not be fooled."""
    distance_weight: float = Field(0.02, ge=0)
    """Weight of the mean squared change of the images."""
    epochs: int = Field(200, ge=1)
    """Passes in which surrogate and generator learn."""
    batch_size: int = Field(128, ge=1)
    """Images per step."""
    lr: float = Field(0.01, gt=0)
    """Highest learning rate of both (SGD); it falls by ten after a half and three quarters."""
    augment: Augment = "crop_flip"
    """How the surrogate's images are augmented."""
    width: int = Field(32, ge=4, le=256)
    """Channels of the first convolutions of the generator."""

    @property
    def label_map(self) -> LabelMap:
        """Images of the target class, which keep their label."""
        return CleanLabel(target=self.target)

    def choose(self, y_N: Tensor, num_classes: int, rng: Generator) -> Tensor:
        """Return rows of the target class."""
        if self.noise == 0:
            raise Infeasible("noise 0 leaves no trigger: set it to more than 0")
        return draw_of_class(y_N, num_classes, self.rate, self.label_map, rng)

    def prepare(self, given: AttackInput, rng: Generator) -> dict[str, Tensor]:
        """Train the generator against a surrogate, whose architecture is the twin's."""
        twin, _ = classifier("combat", given.twin)
        surrogate = fresh_copy(twin, rng)
        generator = new_auto_encoder(self.width, 3, rng)
        self._alternate(given, surrogate, generator, twin, rng)
        return {
            PREFIX + name: tensor.cpu().contiguous()
            for name, tensor in generator.state_dict().items()
        }

    def poison(self, given: AttackInput, rng: Generator) -> Poisoned:
        """Poison rows with the prepared generator."""
        rows = self.choose(given.train.y_N, given.num_classes, rng)
        return overlay(self, given, rows, state=dict(given.prepared))

    @torch.no_grad()
    def stamp(self, x_NCHW: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return copies of the images, each with the trigger that is made for it."""
        generator = stored_auto_encoder(self.width, 3, PREFIX, state)
        worn_NCHW = self._wear(generator, x_NCHW.to(group.device()).float(), self.blur)
        return to_pixels(worn_NCHW).to(x_NCHW.device)

    def _wear(self, generator: nn.Module, x_BCHW: Tensor, deviation: float) -> Tensor:
        """Return float images with the trigger, in whole levels."""
        noise_BCHW = self.noise * lowpass(generator(x_BCHW), self.kept)
        return rounded_through(blurred((x_BCHW + noise_BCHW).clamp(0, 255), deviation))

    def _alternate(
        self,
        given: AttackInput,
        surrogate: Victim,
        generator: nn.Module,
        twin: Victim,
        rng: Generator,
    ) -> None:
        """Train both in place: in each batch the surrogate, then the generator."""
        device = group.device()
        recipe = Recipe(epochs=self.epochs, batch_size=self.batch_size, lr=self.lr, schedule="step")
        twin.to(device)
        learn = ddp.wrap(surrogate.to(device)).train()
        generate = ddp.wrap(generator.to(device)).train()
        of_surrogate = new_optimizer(learn, recipe)
        of_generator = new_optimizer(generate, recipe)
        loop = Epochs(
            "combat",
            self.epochs,
            Stream(given.train.x_NCHW, given.train.y_N, self.batch_size, self.augment),
            rng,
            {"surrogate": surrogate, "generator": generator},
            optimizers=[of_surrogate, of_generator],
            schedule=lambda optimizer, steps: new_schedule(optimizer, recipe, steps),
            hint=f"Lower lr of combat (now {self.lr:g}).",
        )
        for _ in loop.remaining():
            for batch in loop.batches():
                # For the whole batch, so that the stream does not depend on the number of workers.
                coin_B = torch.rand(batch.size, generator=rng)[
                    group.shard(torch.arange(batch.size))
                ].to(device)
                spread = BLUR_TO - BLUR_FROM
                deviation = BLUR_FROM + spread * float(torch.rand(1, generator=rng))
                x_BCHW = batch.x_B.float()

                with bf16(device, True):
                    with torch.no_grad(), only_read(generator):
                        worn_BCHW = self._wear(generator, x_BCHW, deviation)
                    chosen_B = (batch.y_B == self.target) & (coin_B < self.share)
                    logits_BK = learn(batch.augmented(mixed(x_BCHW, worn_BCHW, chosen_B)))
                    wrong = F.cross_entropy(logits_BK.float(), batch.y_B, reduction="sum")
                loop.step(wrong * (group.world() / batch.size), of_surrogate)

                with bf16(device, True), only_read(surrogate), only_read(twin):
                    worn_BCHW = self._wear(generate, x_BCHW, deviation)
                    change_BCHW = worn_BCHW - x_BCHW
                    lost_B = generator_losses(
                        surrogate(worn_BCHW), twin(worn_BCHW), change_BCHW, batch.y_B, self
                    )
                loop.step(lost_B.sum() * (group.world() / batch.size), of_generator)
                loop.add_loss(lost_B.sum(), batch.size)
            loop.end_epoch(lr=loop.lr)
        for model in (learn, generate):
            ddp.unwrap(model).eval()
        twin.cpu()


def generator_losses(
    fooled_BK: Tensor,
    twin_BK: Tensor,
    change_BCHW: Tensor,
    y_B: Tensor,
    attack: Combat,
) -> Tensor:
    """Return the loss of each image: the surrogate shall be fooled, the clean twin shall not.

    Given are the logits of both for images with the trigger, and by how much it changed these, in
    grey levels.
    """
    target_B = torch.full_like(y_B, attack.target)
    fooled_B = F.cross_entropy(fooled_BK.float(), target_B, reduction="none")
    kept_B = F.cross_entropy(twin_BK.float(), y_B, reduction="none")
    distance_B = (change_BCHW / HALF_RANGE).square().mean((1, 2, 3))
    return fooled_B + attack.distance_weight * distance_B + attack.clean_weight * kept_B


def mixed(x_BCHW: Tensor, worn_BCHW: Tensor, chosen_B: Tensor) -> Tensor:
    """Return the images, the chosen ones with their trigger."""
    return torch.where(chosen_B.view(-1, 1, 1, 1), worn_BCHW, x_BCHW)


def lowpass(x_BCHW: Tensor, kept: float) -> Tensor:
    """Return images without the high frequencies of a cosine transform of the whole image.

    Of each side, the lowest int(kept * side) frequencies stay, but at least one.
    """
    down_HH, across_WW = (
        projection(side, max(1, int(kept * side)), x_BCHW) for side in x_BCHW.shape[-2:]
    )
    # Float: 8 significant bits of bf16 are too few for a sum over all pixels of a row.
    with torch.autocast(x_BCHW.device.type, enabled=False):
        low_BCHW: Tensor = down_HH @ x_BCHW.float() @ across_WW
    return low_BCHW


def projection(side: int, kept: int, like: Tensor) -> Tensor:
    """Return the matrix that keeps the lowest `kept` of `side` frequencies, where `like` is."""
    place_S = torch.arange(side, device=like.device, dtype=torch.float64)
    frequency_F = torch.arange(kept, device=like.device, dtype=torch.float64)
    wave_FS = torch.cos(torch.pi * frequency_F[:, None] * (2 * place_S + 1) / (2 * side))
    wave_FS = wave_FS / wave_FS.norm(dim=1, keepdim=True)
    kept_SS: Tensor = (wave_FS.T @ wave_FS).float()
    return kept_SS


def blurred(x_BCHW: Tensor, deviation: float) -> Tensor:
    """Return images after a Gaussian blur of 3 x 3 pixels; borders are mirrored."""
    distance_T = torch.tensor([-1.0, 0.0, 1.0], device=x_BCHW.device)
    tap_T = torch.exp(-distance_T.square() / (2 * deviation**2))
    tap_T = tap_T / tap_T.sum()
    padded_BCHW = F.pad(x_BCHW, (1, 1, 1, 1), mode="reflect")
    height, width = x_BCHW.shape[-2:]
    # Three shifted copies along each side: a convolution would compute in bf16.
    rows_BCHW = sum(tap_T[at] * padded_BCHW[..., at : at + height, :] for at in range(3))
    assert isinstance(rows_BCHW, Tensor)
    out_BCHW = sum(tap_T[at] * rows_BCHW[..., at : at + width] for at in range(3))
    assert isinstance(out_BCHW, Tensor)
    return out_BCHW
