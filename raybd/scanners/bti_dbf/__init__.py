"""BTI-DBF: find the features that a victim needs for clean images, and a trigger in the others.

Xu, Huang, Li, Qin and Ren 2024, ICLR (OpenReview Tw9wemV6cb), sections on decoupling benign
features and on trigger inversion; its generator is a U-Net (arXiv 1505.04597). Fields as in the
authors' code. A mask of the features keeps what the victim says while its complement loses it; then
a generator changes images so that the features outside of the mask move. As it may change the whole
image, it also finds triggers that no small mask holds.
Differs: features are embeddings (the authors': maps of the last layer), in units of their mean
deviation. Labels are the victim's own predictions, the victim stays in eval mode, images are not
augmented. The loss of the complement has a bound. The generator normalises groups
of channels and returns pixels in 0..255; while it learns to reproduce, predictions are compared by
the cross-entropy of the changed image's to the image's (the authors' code: the other way round, of
probabilities). The paper names the target class; the score and its threshold are this project's: by
how much the share of the commonest prediction grows. Compare with the clean twin.
"""

import copy

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from raybd.distributed import group
from raybd.scanners._classes import count_classes, too_few
from raybd.scanners.bti_dbf.generator import Painter
from raybd.scanners.bti_dbf.goal import Goal, decoupling_loss, mean_deviation
from raybd.training.epochs import Epochs, Stream
from raybd.training.inference import infer
from raybd.types.config import searched
from raybd.types.data import Split
from raybd.types.errors import UserError
from raybd.types.methods import Scanner
from raybd.types.models import Victim
from raybd.types.verdicts import Suspicion

REPRODUCED = 0.5
"""Share of unchanged predictions below which a generator has not learned to reproduce images."""
SHOWN = 4
"""Images that are shown without and with the trigger."""


class BtiDbf(Scanner):
    """Score by how many images are sent to one class when features that none needs are moved."""

    images: int = Field(2500, ge=2)
    """Clean images, drawn at random; all if there are fewer. Their labels are ignored."""
    batch_size: int = Field(128, ge=2, json_schema_extra=searched(low=16, high=256, log=True))
    """Images per step."""
    mask_epochs: int = Field(20, ge=1, json_schema_extra=searched(low=5, high=200, log=True))
    """Passes over the images for the mask of the features. After many steps it keeps all of them,
    and leaves none to move."""
    mask_lr: float = Field(0.01, gt=0, json_schema_extra=searched(low=0.001, high=0.3, log=True))
    """Learning rate of Adam for the mask."""
    cap: float = Field(1.0, gt=0, json_schema_extra=searched(low=1.0, high=10.0))
    """Loss without the masked features that counts for an image, at most, in losses of guessing."""
    pretrain_epochs: int = Field(50, ge=1, json_schema_extra=searched(low=10, high=100))
    """Passes in which the generator learns to reproduce images."""
    trigger_epochs: int = Field(30, ge=1, json_schema_extra=searched(low=10, high=100))
    """Passes in which it learns to change them."""
    lr: float = Field(1e-3, gt=0, json_schema_extra=searched(low=1e-4, high=1e-2, log=True))
    """Learning rate of Adam for the generator."""
    near: float = Field(0.1, gt=0)
    """Mean squared change of the pixels, in variances of their channels, above which the generator
    that learns to reproduce is drawn to the pixels."""
    pixel_pull: float = Field(100.0, ge=0)
    """Weight of that change in its loss above that, beside predictions and features."""
    pixel_weight: float = Field(0.01, ge=0)
    """Weight of it below."""
    pixel_bound: float = Field(0.3, gt=0, json_schema_extra=searched(low=0.03, high=0.6, log=True))
    """Mean squared change of the pixels, in the same unit, above which a trigger is too visible."""
    feature_bound: float = Field(3.0, gt=0, json_schema_extra=searched(low=0.03, high=3, log=True))
    """Mean squared change of the benign features above which a trigger changes what an image shows
    (a later version of the authors' code: 5)."""
    benign_weight: float = Field(0.01, ge=0)
    """Weight of that change in the loss of the generator."""
    noise: float = Field(0.03, ge=0)
    """Deviation of the noise that is added to the images when predictions are counted."""
    width: int = Field(32, ge=4, multiple_of=4)
    """Channels of the generator's first block; each further one has twice as many."""
    depth: int = Field(4, ge=1, le=6)
    """How often the generator halves the image."""
    excess: float = Field(2.0, gt=0, json_schema_extra=searched(low=1.0, high=5.0))
    """The model is flagged if the share of a prediction grows by more than this times the share
    of one of the K classes, 1/K."""
    least_classes: int = Field(5, ge=3)
    """Classes without which a share that grows means nothing."""

    def cannot(self, encoder: nn.Module, num_classes: int) -> str | None:
        """Return why there is no verdict: there are too few classes."""
        return too_few("bti_dbf", num_classes, self.least_classes)

    def scan(self, victim: Victim, clean: Split, rng: Generator) -> Suspicion:
        """Score the victim by the growth of the share of the commonest prediction.

        The facts are `index[k]` (growth of the share of each class k), the commonest class, the
        share of predictions that the generator kept when it had learned to reproduce, the mean of
        the mask, and both changes that have a bound. The tensors are `feature_mask` (D), `mask`
        (H x W, 0..1: where images are changed, of the largest change), `change` (C x H x W, mean of
        it, -1..1), `index` and `flagged` (K). Every worker does all. Raises Infeasible for too few
        classes, or without a head.
        """
        if len(clean) < 2:
            raise UserError(f"bti_dbf: {len(clean)} clean images", "Give it two.", exit_code=1)
        images = clean.select(torch.randperm(len(clean), generator=rng)[: self.images])
        num_classes = count_classes("bti_dbf", victim, images.x_NCHW[:1], self.least_classes)
        # A frozen copy: its weights get no gradients, and those of the victim stay as they are.
        frozen = copy.deepcopy(victim).to(group.device()).eval().requires_grad_(False)
        said_N = infer(frozen, images.x_NCHW).argmax(1)
        z_ND = infer(frozen, images.x_NCHW, frozen.embed)
        mask_D = self._decouple(frozen, z_ND, said_N, rng)

        painter = Painter(frozen, self.width, self.depth, rng).to(group.device())
        goal = Goal(self, frozen, painter, mask_D, mean_deviation(z_ND))
        stream = Stream(images.x_NCHW, said_N, self.batch_size, sharded=False)
        self._train(goal, stream, self.pretrain_epochs, rng, "bti_dbf: reproduce")
        kept_N = infer(frozen, images.x_NCHW, lambda x_BCHW: frozen(painter(x_BCHW))).argmax(1)
        goal.away = True
        self._train(goal, stream, self.trigger_epochs, rng, "bti_dbf: change")

        shares_K = shares(said_N, num_classes)
        index_K = shares(self._predictions(frozen, painter, images, rng), num_classes) - shares_K
        reproduced = float((kept_N == said_N).float().mean())
        return self._verdict(index_K, shares_K, goal, images, reproduced)

    def _decouple(self, victim: Victim, z_ND: Tensor, said_N: Tensor, rng: Generator) -> Tensor:
        """Return the mask of the benign features, in 0..1."""
        free = nn.ParameterDict(
            {"mask": nn.Parameter(torch.randn(z_ND.shape[1], generator=rng).to(group.device()))}
        )
        loop = Epochs(
            "bti_dbf: decouple",
            self.mask_epochs,
            Stream(z_ND, said_N, self.batch_size, sharded=False),
            rng,
            {"free": free},
            optimizers=[torch.optim.Adam(free.parameters(), self.mask_lr)],
            hint="Lower mask_lr.",
        )
        assert victim.head is not None
        for _ in loop.remaining():
            for batch in loop.batches():
                mask_D = torch.tanh(free["mask"]) / 2 + 0.5
                loss = decoupling_loss(victim.head, mask_D, batch.x_B, batch.y_B, self.cap)
                loop.step(loss)
                loop.add_loss(loss, group.world())
            loop.end_epoch()
        return (torch.tanh(free["mask"]) / 2 + 0.5).detach()

    def _train(self, goal: Goal, stream: Stream, epochs: int, rng: Generator, name: str) -> None:
        adam = torch.optim.Adam(goal.painter.parameters(), self.lr)
        state = {"painter": goal.painter}
        loop = Epochs(name, epochs, stream, rng, state, optimizers=[adam], hint="Lower lr.")
        for _ in loop.remaining():
            for batch in loop.batches():
                loss = goal.loss(batch.x_B)
                loop.step(loss)
                loop.add_loss(loss, group.world())
            loop.end_epoch()

    def _predictions(
        self, victim: Victim, painter: Painter, images: Split, rng: Generator
    ) -> Tensor:
        """Return what the victim says of images that were changed after noise was added."""
        # Drawn by one stream for all images: the number of workers changes nothing.
        seed = int(torch.randint(2**31, (1,), generator=rng))
        own = torch.Generator().manual_seed(seed)
        said = []
        for x_BCHW in images.x_NCHW.split(self.batch_size):
            noise_BCHW = self.noise * torch.randn(x_BCHW.shape, generator=own)
            with torch.no_grad():
                changed_BCHW = painter(group.to_device(x_BCHW), group.to_device(noise_BCHW))
                said.append(victim(changed_BCHW).argmax(1).cpu())
        return torch.cat(said)

    def _verdict(
        self, index_K: Tensor, shares_K: Tensor, goal: Goal, images: Split, reproduced: float
    ) -> Suspicion:
        commonest = int((index_K + shares_K).argmax())
        threshold = self.excess / len(index_K)
        x_BCHW = group.to_device(images.x_NCHW[: self.batch_size])
        with torch.no_grad():
            changes = goal.changes(x_BCHW)
            painted_BCHW = goal.painter(x_BCHW)
        difference_BCHW = (painted_BCHW - x_BCHW.float()).cpu() / 255
        size_HW = difference_BCHW.abs().mean((0, 1))
        flagged_K = torch.zeros(len(index_K), dtype=torch.bool)
        flagged_K[commonest] = index_K[commonest] > threshold
        return Suspicion(
            index_K[commonest][None],
            torch.tensor([threshold]),
            warning=(
                None
                if reproduced >= REPRODUCED
                else f"bti_dbf: the generator keeps {reproduced:.2f} of the predictions when it "
                "should reproduce images: raise pretrain_epochs"
            ),
            facts={
                **{f"index[{k}]": float(index) for k, index in enumerate(index_K)},
                "suspected_class": float(commonest),
                "reproduced": reproduced,
                "benign_share": float(goal.mask_D.mean()),
                "pixel_change": float(changes.pixels),
                "benign_change": float(changes.benign),
                "other_change": float(changes.others),
            },
            pictures={
                "input": images.x_NCHW[:SHOWN],
                "with the trigger": painted_BCHW[:SHOWN].round().to(torch.uint8).cpu(),
            },
            tensors={
                "feature_mask": goal.mask_D.cpu(),
                "mask": size_HW / size_HW.max().clamp_min(torch.finfo(torch.float32).eps),
                "change": difference_BCHW.mean(0),
                "index": index_K,
                "flagged": flagged_K,
            },
        )


def shares(y_N: Tensor, num_classes: int) -> Tensor:
    """Return the share of each class, float32."""
    return torch.bincount(y_N, minlength=num_classes).float() / len(y_N)
