"""DBD: an encoder without labels, a head, then labels for the images whose labels are credible.

Huang, Li, Wu, Qin and Ren 2022, arXiv 2202.03423, section 4; MixMatch is that of Berthelot et al.
2019, arXiv 1905.02249, algorithm 1; defaults from the authors' code, where BackdoorBench has 100
epochs of MixMatch. The encoder is trained by another stage (`encoder:`), for 1,000 epochs of SimCLR
in the paper, 100 in BackdoorBench.
Differs: the head learns from the embeddings of images without augmentation, under a frozen encoder
in eval mode (there its batch statistics still move); the last epoch counts, not the best one on
test images; the victim's normalisation; the verdict, with a threshold that few trusted images
exceed.
"""

import copy
from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from raybd.distributed import ddp, group
from raybd.metrics.thresholds import conformal, otsu
from raybd.training.epochs import Batch, Epochs, Stream
from raybd.training.inference import infer
from raybd.training.loop import fit
from raybd.training.models import new_victim
from raybd.training.precision import bf16
from raybd.training.recipe import FollowingRecipe, new_optimizer, new_schedule
from raybd.training.trusted import FEWEST, lost_accuracy, trusted_accuracy
from raybd.types.config import searched
from raybd.types.data import Split
from raybd.types.errors import UserError
from raybd.types.methods import StartedDefense
from raybd.types.models import Network, Victim
from raybd.types.verdicts import Defended, Suspicion


class DBD(FollowingRecipe, StartedDefense):
    """Train on the images whose labels an encoder without labels finds credible; relabel the rest.

    Needs no trusted images; they give the threshold of the verdict. The recipe is that of MixMatch.
    """

    epochs: int = Field(190, ge=0, json_schema_extra=searched(low=10, high=200, log=True))
    """Rounds of MixMatch; before each one, the images are divided anew."""
    steps: int = Field(1024, ge=1, json_schema_extra=searched(low=50, high=1024, log=True))
    """Steps of a round."""
    batch_size: int = Field(64, ge=2)
    """Labelled images per step over all workers, and as many without a label; of the head too."""
    optimizer: Literal["sgd", "adam"] = "adam"
    """SGD has Nesterov momentum; Adam decouples its weight decay."""
    lr: float = Field(2e-3, gt=0, json_schema_extra=searched(low=2e-4, high=5e-3, log=True))
    """Highest learning rate."""
    weight_decay: float = Field(0.0, ge=0)
    """L2 penalty (SGD) or decoupled decay (Adam)."""
    schedule: Literal["cosine", "step", "constant"] = "constant"
    """How the learning rate of MixMatch falls."""
    head_epochs: int = Field(10, ge=1)
    """Passes of the head over the embeddings of all images."""
    cross_entropy: float = Field(0.1, ge=0)
    """Factor of the cross-entropy in the symmetric loss."""
    reverse: float = Field(1.0, ge=0)
    """Factor of the reverse cross-entropy in the symmetric loss."""
    least: float = Field(1e-4, gt=0, lt=1)
    """What stands for a probability of zero in the label, whose logarithm the reverse one takes."""
    credible: float = Field(0.5, gt=0, lt=1, json_schema_extra=searched(low=0.2, high=0.8))
    """Share of the images that keep their label: those with the lowest symmetric loss."""
    per_class: bool = False
    """Whether this share is taken within each class. Poison of one label then cannot crowd out
    other classes."""
    sharpening: float = Field(0.5, gt=0, le=1)
    """MixMatch: temperature of the labels that are guessed; a low one makes them surer."""
    mixing: float = Field(0.75, gt=0)
    """MixMatch: parameter of the Beta distribution by which two images are mixed."""
    unlabelled: float = Field(15.0, ge=0, json_schema_extra=searched(low=1.0, high=75.0, log=True))
    """MixMatch: factor of the loss of images without a label, reached at the last step."""
    alpha: float = Field(0.01, gt=0, lt=1)
    """Verdict: share of clean images that is flagged, where there are trusted ones."""

    def defend_from(
        self,
        start: Victim | None,
        split: Split,
        num_classes: int,
        network: Network,
        clean: Split,
        rng: Generator,
    ) -> Defended:
        """Train on the poisoned split. Raises UserError without an encoder."""
        if start is None:
            raise UserError(
                "dbd has nothing to start from",
                "Name an encoder of the poisoned images, encoder: {trainer: {kind: simclr}}.",
                exit_code=1,
            )
        known = self.resolved()
        victim = Victim(
            # A copy, because it is trained further, and `start` belongs to the caller.
            copy.deepcopy(start.encoder),
            new_victim(split, num_classes, network, rng).head,
            start.mean_C.clone(),
            start.std_C.clone(),
        )
        known._learn_head(victim, split, rng)
        before = trusted_accuracy(victim, clean)
        known._mix(victim, split, num_classes, rng)

        loss_N = self.symmetric(infer(victim, split.x_NCHW), split.y_N)
        credible_y = split.y_N[self.credible_rows(loss_N, split.y_N)]
        facts = {"credible label share": float(credible_y.bincount().max()) / len(credible_y)}
        after = trusted_accuracy(victim, clean)
        if before is not None and after is not None:
            facts |= {"trusted accuracy of the head": before, "trusted accuracy": after}
        lost = lost_accuracy("dbd", before, after, len(clean), "of a head on the encoder")
        verdict = self._verdict(victim, loss_N, clean)
        return Defended(victim.cpu().eval(), verdict, lost, facts)

    def symmetric(self, logits_BK: Tensor, y_B: Tensor) -> Tensor:
        """Return the symmetric cross-entropy of each image.

        The reverse one is -log(least) times the probability of all other labels.
        """
        logits_BK = logits_BK.float()
        loss_B = F.cross_entropy(logits_BK, y_B, reduction="none")
        other_B = 1 - logits_BK.softmax(1).gather(1, y_B[:, None])[:, 0]
        return self.cross_entropy * loss_B - self.reverse * float(np.log(self.least)) * other_B

    def credible_rows(self, loss_N: Tensor, y_N: Tensor) -> Tensor:
        """Return a mask of the images that keep their label."""
        credible_N = torch.zeros(len(y_N), dtype=torch.bool)
        groups = [y_N == label for label in y_N.unique()] if self.per_class else [y_N >= 0]
        for group_N in groups:
            rows = group_N.nonzero().flatten()
            # Stable, so that equal losses are ordered by row.
            order = loss_N[rows].argsort(stable=True)
            credible_N[rows[order[: max(1, round(self.credible * len(rows)))]]] = True
        return credible_N

    def _verdict(self, victim: Victim, loss_N: Tensor, clean: Split) -> Suspicion:
        if len(clean) < FEWEST:
            return Suspicion(loss_N, torch.tensor(otsu(loss_N)))
        held_M = self.symmetric(infer(victim, clean.x_NCHW), clean.y_N)
        return Suspicion(loss_N, torch.tensor(conformal(held_M, self.alpha)))

    def _learn_head(self, victim: Victim, split: Split, rng: Generator) -> None:
        z_ND = infer(victim, split.x_NCHW, victim.embed)

        def objective(model: nn.Module, z_BD: Tensor, y_B: Tensor, rows_B: Tensor) -> Tensor:
            return self.symmetric(model(z_BD), y_B)

        fields = {
            "epochs": self.head_epochs,
            "schedule": "constant",
            "warmup": 0.0,
            # Embeddings are computed once.
            "augment": "none",
        }
        recipe = self.model_copy(update=fields)
        assert victim.head is not None
        fit(victim.head, Split(z_ND, split.y_N), recipe, rng, objective, name="dbd head")

    def _mix(self, victim: Victim, split: Split, num_classes: int, rng: Generator) -> None:
        """MixMatch: train encoder and head; labels that are not credible are guessed."""
        if not self.epochs:
            return
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        victim.to(group.device()).to(memory_format=layout)
        model = ddp.wrap(victim).train()
        augment = self.resolved().augment
        assert augment != "victim"

        def schedule(optimizer: Optimizer, _: int) -> LRScheduler:
            return new_schedule(optimizer, self, self.epochs * self.steps)

        loop = Epochs(
            "dbd mixmatch",
            self.epochs,
            # Not sharded: an image is mixed with one that may belong to another worker.
            Stream(split.x_NCHW, split.y_N, self.batch_size, augment, self.bounds, sharded=False),
            rng,
            {"victim": victim},
            optimizers=[new_optimizer(model, self)],
            schedule=schedule,
            clip=self.clip,
            hint=f"Lower lr (now {self.lr:g}) or unlabelled.",
        )
        for epoch in loop.remaining():
            loss_N = self.symmetric(infer(victim, split.x_NCHW), split.y_N)
            credible_N = self.credible_rows(loss_N, split.y_N)
            model.train()
            labelled = min(self.batch_size, int(credible_N.sum()))
            for step, batch in enumerate(loop.batches(self._rows(credible_N, rng))):
                ramp = (epoch + step / self.steps) / self.epochs
                loss = self.loss(model, batch, labelled, num_classes, self.unlabelled * ramp, rng)
                # Parts add up to the loss, but data parallelism averages: the factor undoes that.
                loop.step(loss * group.world())
                loop.add_loss(loss, 1)
            loop.end_epoch(lr=loop.lr)
        ddp.unwrap(model)
        victim.to("cpu").to(memory_format=torch.contiguous_format).eval()

    def _rows(self, credible_N: Tensor, rng: Generator) -> Iterator[Tensor]:
        """Yield the rows of each step: labelled ones, and others twice, for two views of each."""
        parts = [credible_N.nonzero().flatten(), (~credible_N).nonzero().flatten()]
        for _ in range(self.steps):
            labelled_B, other_B = (
                rows[torch.randperm(len(rows), generator=rng)[: self.batch_size]] for rows in parts
            )
            yield torch.cat([labelled_B, other_B, other_B])

    def loss(
        self,
        model: nn.Module,
        batch: Batch,
        labelled: int,
        num_classes: int,
        unlabelled: float,
        rng: Generator,
    ) -> Tensor:
        """Return this worker's part of the loss of a step."""
        x_BCHW = batch.augmented(batch.x_B).float()
        with bf16(group.device(), self.precision == "auto"):
            guess_BK = self._guess(model, x_BCHW[labelled:])
            target_BK = torch.cat([F.one_hot(batch.y_B[:labelled], num_classes).float(), guess_BK])
            mixed, with_B = self.mixture(len(target_BK), rng)
            mine = group.shard(torch.arange(len(target_BK)))
            x_mixed = mixed * x_BCHW[mine] + (1 - mixed) * x_BCHW[with_B[mine]]
            target_mixed = mixed * target_BK[mine] + (1 - mixed) * target_BK[with_B[mine]]
            # One pass, so that batch normalisation sees all images together.
            logits_BK = model(x_mixed).float()
        known_B = mine < labelled
        known = -(target_mixed * logits_BK.log_softmax(1)).sum(1)[known_B].sum() / labelled
        guessed = (logits_BK.softmax(1) - target_mixed).square().mean(1)[~known_B].sum()
        loss: Tensor = known + unlabelled * guessed / max(1, len(target_BK) - labelled)
        return loss

    @torch.no_grad()
    def _guess(self, model: nn.Module, x_BCHW: Tensor) -> Tensor:
        """Return the label of each view: the sharpened mean over both views of its image."""
        # Each worker looks at its share, and all get the guesses of all.
        mine = group.shard(torch.arange(len(x_BCHW)))
        p_BK = group.gather_rows(model(x_BCHW[mine]).float().softmax(1), len(x_BCHW))
        return sharpened(p_BK.view(2, -1, p_BK.shape[1]).mean(0), self.sharpening).repeat(2, 1)

    def mixture(self, count: int, rng: Generator) -> tuple[float, Tensor]:
        """Draw how much of itself an image keeps, at least half, and with which it is mixed."""
        seed = int(torch.randint(2**31, (1,), generator=rng))
        # torch draws from this distribution by its global stream alone.
        share = np.random.default_rng(seed).beta(self.mixing, self.mixing)
        return float(max(share, 1 - share)), torch.randperm(count, generator=rng)


def sharpened(p_BK: Tensor, temperature: float) -> Tensor:
    """Return probabilities to the power of 1 / temperature, scaled to a sum of 1."""
    power_BK: Tensor = p_BK ** (1 / temperature)
    return power_BK / power_BK.sum(1, keepdim=True)
