"""NAB, Non-Adversarial Backdoor: images that are learned first get a stamp and another label.

Liu, Sangiovanni-Vincentelli and Yue 2023, arXiv 2307.15539, method; defaults from the authors'
code. The network learns that an image with the defender's stamp has a label other than the one that
a trigger stands for. In use, every image is stamped.
Differs: see training/isolation.py; no Cutout; learning rate and weight decay, which the authors'
script sets and we have not seen, are those of ABL; embeddings have unit length. BackdoorBench
isolates 10 % and measures the network without its stamp, where the defense is off.
"""

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor, nn

from raybd.distributed import group
from raybd.metrics.classification import predictions
from raybd.training.inference import infer
from raybd.training.isolation import Isolating
from raybd.training.loop import fit
from raybd.training.models import new_victim
from raybd.training.recipe import FollowingRecipe
from raybd.training.trusted import trusted_accuracy
from raybd.types.config import searched
from raybd.types.data import Split
from raybd.types.errors import UserError
from raybd.types.methods import StartedDefense
from raybd.types.models import Network, Victim
from raybd.types.verdicts import Defended


class NAB(Isolating, FollowingRecipe, StartedDefense):
    """Stamp and relabel the images that are learned first; the victim stamps whatever it is given.

    Labels come from a network that was trained on trusted images, or from an encoder of the
    poisoned images (`encoder:`).
    """

    lr: float = Field(0.1, gt=0, json_schema_extra=searched(low=0.01, high=0.1, log=True))
    """Highest learning rate of the last stage, and of the network that is trained on trusted
    images."""
    weight_decay: float = Field(1e-4, ge=0)
    """L2 penalty (SGD) or decoupled decay (Adam), in all stages."""
    isolation_steps: int = Field(
        15620, ge=1, json_schema_extra=searched(low=300, high=16000, log=True)
    )
    """Steps of the first stage, rounded up to whole passes over the images; the default is 20
    epochs of 50,000 images in batches of 64, as published."""
    share: float = Field(0.05, gt=0, lt=1, json_schema_extra=searched(low=0.01, high=0.2))
    """Share of the images that is isolated: those with the lowest losses; the authors offer 0.01,
    0.05 and 0.1, BackdoorBench has 0.1."""
    labels_from: Literal["trusted", "encoder"] = "trusted"
    """What tells the label of an isolated image: a network that was trained on the trusted images
    (trusted, the paper's VD), or the nearest class mean in the embeddings of an encoder
    (encoder, NC)."""
    trusted_epochs: int = Field(100, ge=1)
    """`labels_from: trusted`: passes over the trusted images."""
    uncertain: float = Field(0.2, ge=0, lt=1)
    """`labels_from: encoder`: share of the images with the lowest losses that plays no part in the
    means (BackdoorBench's value)."""
    side: int = Field(2, ge=1)
    """Side of the stamp, in pixels: a square of the mean colour in the upper left corner."""

    @property
    def needs_start(self) -> bool:
        """Whether labels come from an encoder."""
        return self.labels_from == "encoder"

    def refused(self, side: int) -> str | None:
        """Return why the stamp does not fit into images of this side, if so."""
        return f"the stamp hides the image: side {self.side}" if self.side >= side else None

    def reshape(self, victim: Victim, state: Mapping[str, Tensor]) -> None:
        """Put the stamp in front of a victim that was just built."""
        victim.entry = _Stamp(self.side)

    def defend_from(
        self,
        start: Victim | None,
        split: Split,
        num_classes: int,
        network: Network,
        clean: Split,
        rng: Generator,
    ) -> Defended:
        """Train on the poisoned split, in which isolated images are relabelled, and stamped where
        that changes the label.

        Raises UserError without the trusted images or the encoder that tell the labels.
        """
        if (known := self.resolved()) is not self:
            return known.defend_from(start, split, num_classes, network, clean, rng)
        first = new_victim(split, num_classes, network, rng)
        isolated = self.isolate(first, split, self, rng, "nab")
        if self.labels_from == "trusted":
            pseudo_N = self._labels_by_trusted(split, num_classes, network, clean, rng)
        else:
            pseudo_N = self._labels_by_encoder(start, split, isolated.loss_N, num_classes)
        y_N, worn_N = relabelled(split.y_N, pseudo_N, isolated.rows_M)

        victim = new_victim(split, num_classes, network, rng)
        stamp = _Stamp(self.side)
        victim.entry = stamp
        on_device_N = worn_N.to(group.device())

        def objective(model: nn.Module, x_BCHW: Tensor, y_B: Tensor, rows_B: Tensor) -> Tensor:
            stamp.worn_B = on_device_N[rows_B]
            return F.cross_entropy(model(x_BCHW), y_B, reduction="none")

        fit(victim, Split(split.x_NCHW, y_N), self, rng, objective, name="nab")
        # From here on every image is stamped.
        stamp.worn_B = None

        rest_N = torch.ones(len(split), dtype=torch.bool)
        rest_N[isolated.rows_M] = False
        agree_N = pseudo_N == split.y_N
        facts = {
            **isolated.verdict.facts,
            "stamped": float(worn_N.sum()),
            # How good the labels are, as far as a defender can know: most of the rest is clean.
            "new labels that agree on the rest": float(agree_N[rest_N].double().mean()),
        }
        accuracy = trusted_accuracy(victim, clean)
        if accuracy is not None:
            facts["trusted accuracy"] = accuracy
        victim.cpu()
        unchanged = None if worn_N.any() else "nab: no label was changed, so nothing is stamped"
        warnings = [text for text in (isolated.problem, unchanged) if text]
        return Defended(victim, isolated.verdict, "; ".join(warnings) or None, facts)

    def _labels_by_trusted(
        self, split: Split, num_classes: int, network: Network, clean: Split, rng: Generator
    ) -> Tensor:
        """Return what a network that was trained on the trusted images says of stamped images."""
        if not len(clean):
            raise UserError(
                "nab: labels_from is trusted, and there are no trusted images",
                "Set the data set's `clean`, or take labels_from: encoder.",
                exit_code=1,
            )
        teller = new_victim(clean, num_classes, network, rng)
        recipe = self.model_copy(update={"epochs": self.trusted_epochs})
        fit(teller, clean, recipe, rng, name="nab trusted")
        # Asked with the stamp on, as in the authors' code: it is what the victim will see.
        teller.entry = _Stamp(self.side)
        return predictions(infer(teller, split.x_NCHW))

    def _labels_by_encoder(
        self, start: Victim | None, split: Split, loss_N: Tensor, num_classes: int
    ) -> Tensor:
        """Return the class whose mean embedding is nearest."""
        if start is None:
            raise UserError(
                "nab: labels_from is encoder, and no encoder is given",
                "Name one, encoder: {trainer: {kind: simclr}}.",
                exit_code=1,
            )
        z_ND = F.normalize(infer(start, split.x_NCHW, start.embed), dim=1)
        return nearest_mean(z_ND, split.y_N, loss_N, self.uncertain, num_classes)


class _Stamp(nn.Module):
    """Puts a square of the mean colour into the upper left corner of preprocessed images."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side
        self.worn_B: Tensor | None = None
        """Which images of the next batch of the training wear it; None: all do."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return copies of the images, of which some or all are stamped."""
        worn_BCHW = x_BCHW.clone()
        # Preprocessing has made the mean colour zero.
        worn_BCHW[..., : self.side, : self.side] = 0
        if self.worn_B is None:
            return worn_BCHW
        return torch.where(self.worn_B[:, None, None, None], worn_BCHW, x_BCHW)


def relabelled(y_N: Tensor, pseudo_N: Tensor, rows_M: Tensor) -> tuple[Tensor, Tensor]:
    """Return labels in which the isolated rows have their new ones, and a mask of stamped rows.

    An isolated image whose label stays is not stamped.
    """
    new_y_N = y_N.clone()
    new_y_N[rows_M] = pseudo_N[rows_M]
    # Other rows have kept their label.
    return new_y_N, new_y_N != y_N


def nearest_mean(
    z_ND: Tensor, y_N: Tensor, loss_N: Tensor, uncertain: float, num_classes: int
) -> Tensor:
    """Return the class of the nearest mean embedding, without those of the lowest losses.

    `uncertain` is the share of the images, of those with the lowest losses, that is left out. A
    class of which no image is left has no mean, and no image gets its label.
    """
    sure_N = torch.ones(len(y_N), dtype=torch.bool)
    sure_N[loss_N.argsort(stable=True)[: round(uncertain * len(y_N))]] = False
    mean_KD = torch.full((num_classes, z_ND.shape[1]), torch.inf)
    for label in y_N[sure_N].unique():
        mean_KD[label] = z_ND[sure_N & (y_N == label)].mean(0)
    return torch.cdist(z_ND, mean_KD).nan_to_num(torch.inf).argmin(1)
