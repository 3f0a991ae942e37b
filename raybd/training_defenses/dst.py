"""D-ST: learn an encoder that trusts the labels of insensitive images alone, then a head.

Chen, Wu and Wang 2022, "Effective backdoor defense by exploiting sensitivity of poisoned samples"
(NeurIPS 2022; no arXiv number is known to us), secure training from scratch; defaults from the
authors' public code. The contrastive loss is that of Khosla et al. 2020, arXiv 2004.11362.
Differs: see training/sensitivity.py; an image whose label is not trusted is no positive of others
either (in the authors' code it is, of trusted images with its label); views and projector are those
of our encoders; the head learns from embeddings without augmentation, and both of its losses come
from one stream of images, weighted so that their means count as published.
"""

import copy
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor, nn

from raybd.distributed import group
from raybd.training.contrast import contrast
from raybd.training.inference import infer
from raybd.training.loop import fit
from raybd.training.models import new_victim
from raybd.training.recipe import Recipe
from raybd.training.self_supervised import OverBatch, exact, seeded, width
from raybd.training.sensitivity import Sensitive, SensitivitySplit
from raybd.training.trusted import trusted_accuracy
from raybd.training.views import Views
from raybd.types.config import searched
from raybd.types.data import Split
from raybd.types.methods import TrainingDefense
from raybd.types.models import Network, Victim
from raybd.types.verdicts import Defended, Suspicion

ONE_LABEL = 0.5
"""Share of one label in the poisoned part below which it is not taken for poison of one target."""


class DST(Recipe, TrainingDefense):
    """Train an encoder with the labels of some images, and a head on the clean part.

    Needs no trusted images. The recipe is that of the encoder.
    """

    epochs: int = Field(200, ge=1, json_schema_extra=searched(low=30, high=300, log=True))
    """Passes over all images, of the encoder."""
    batch_size: int = Field(512, ge=2, json_schema_extra=searched(choices=[128, 256, 512]))
    """Images per step over all workers, of the encoder."""
    lr: float = Field(0.5, gt=0, json_schema_extra=searched(low=0.03, high=0.5, log=True))
    """Highest learning rate of the encoder."""
    weight_decay: float = Field(1e-4, ge=0)
    """L2 penalty (SGD) or decoupled decay (Adam), of the encoder; the head has none."""
    warmup: float = Field(0.05, ge=0, lt=1)
    """Share of the encoder's training over which the learning rate rises from zero."""
    augment: Literal["none"] = "none"
    """The views are the only augmentation."""
    views: Views = Views()
    """How the views of an image are drawn."""
    temperature: float = Field(0.1, gt=0, json_schema_extra=searched(low=0.05, high=0.5, log=True))
    """Divides the cosines."""
    output: int = Field(128, ge=1)
    """Values of a projection; the hidden layer is as wide as the embedding."""
    split: SensitivitySplit = SensitivitySplit()
    """How the images are divided into a clean part, a poisoned part, and the rest."""
    head_epochs: int = Field(10, ge=1)
    """Passes of the head over the clean and the poisoned part."""
    head_lr: float = Field(5.0, gt=0, json_schema_extra=searched(low=0.05, high=5.0, log=True))
    """Learning rate of the head, constant."""
    head_batch_size: int = Field(128, ge=1)
    """Embeddings per step over all workers, of the head."""
    unlearning: float = Field(0.001, ge=0)
    """Factor of the cross-entropy of the poisoned part, which the head ascends."""

    def defend(
        self, split: Split, num_classes: int, network: Network, clean: Split, rng: Generator
    ) -> Defended:
        """Train on the poisoned split; trusted images are only looked at."""
        fresh = new_victim(split, num_classes, network, rng)
        sensitive = self.split.divide(fresh, split, num_classes, rng, "dst", self.precision)
        victim = new_victim(split, num_classes, network, rng)
        self._learn_encoder(victim, split, sensitive, rng)
        self._learn_head(victim, split, sensitive, rng)

        facts = sensitive.facts(split.y_N)
        accuracy = trusted_accuracy(victim, clean)
        if accuracy is not None:
            facts["trusted accuracy"] = accuracy
        share = facts["poison part label share"]
        problem = None
        if share <= ONE_LABEL:
            problem = (
                f"dst: only {share:.0%} of the most sensitive images have one label: either there "
                "is no backdoor of one target, or the division does not find it"
            )
        threshold = torch.tensor(sensitive.threshold)
        verdict = Suspicion(sensitive.change_N, threshold, warning=problem)
        return Defended(victim.cpu().eval(), verdict, facts=facts)

    def _learn_encoder(
        self, victim: Victim, split: Split, sensitive: Sensitive, rng: Generator
    ) -> None:
        batch = min(self.batch_size, len(split))
        values = width(victim.to(group.device()), split)
        head = OverBatch(seeded(lambda: _projector(values, self.output), rng), batch)
        trusted_N = torch.zeros(len(split), dtype=torch.bool)
        trusted_N[sensitive.clean_C] = True
        trusted_N = trusted_N.to(group.device())

        def objective(model: nn.Module, x_BCHW: Tensor, y_B: Tensor, rows_B: Tensor) -> Tensor:
            p_BD = model(self.views.pair(x_BCHW, batch, rng))
            with exact(p_BD.device):
                # Twice, because the second views of all images follow the first ones.
                y_B = group.gather_rows(y_B, batch).repeat(2)
                trusted_B = trusted_N[group.gather_rows(rows_B, batch)].repeat(2)
                loss = contrast(p_BD.float(), y_B, self.temperature, trusted_B)
                return group.spread_loss(loss, batch)

        # The projector stands in for the head, so that `fit` trains and saves both.
        fit(
            Victim(victim.encoder, head, victim.mean_C, victim.std_C),
            split,
            self,
            rng,
            objective,
            name="dst encoder",
        )

    def _learn_head(
        self, victim: Victim, split: Split, sensitive: Sensitive, rng: Generator
    ) -> None:
        parts = split.select(torch.cat([sensitive.clean_C, sensitive.poison_P]))
        z_ND = infer(victim, parts.x_NCHW, victim.embed)
        weight_N = head_weights(len(sensitive.clean_C), len(sensitive.poison_P), self.unlearning)
        weight_N = weight_N.to(group.device())

        def objective(model: nn.Module, z_BD: Tensor, y_B: Tensor, rows_B: Tensor) -> Tensor:
            loss_B = F.cross_entropy(model(z_BD).float(), y_B, reduction="none")
            return weight_N[rows_B] * loss_B

        recipe = Recipe(
            epochs=self.head_epochs,
            batch_size=self.head_batch_size,
            lr=self.head_lr,
            weight_decay=0.0,
            schedule="constant",
            augment="none",
            precision=self.precision,
        )
        assert victim.head is not None
        head = copy.deepcopy(victim.head)
        fit(head, Split(z_ND, parts.y_N), recipe, rng, objective, name="dst head")
        victim.head = head


def head_weights(clean: int, poison: int, unlearning: float) -> Tensor:
    """Return the weights of so many clean and poisoned images, in this order.

    The mean of the weighted losses of all is the mean of the clean ones, minus `unlearning` times
    the mean of the poisoned ones.
    """
    both = clean + poison
    of_clean = torch.full((clean,), both / clean)
    return torch.cat([of_clean, torch.full((poison,), -unlearning * both / poison)])


def _projector(values: int, output: int) -> nn.Module:
    return nn.Sequential(nn.Linear(values, values), nn.ReLU(), nn.Linear(values, output))
