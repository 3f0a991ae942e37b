"""IBD-PSC: a prediction that a trigger makes stays confident when batch norms are amplified.

Hou et al. 2024, arXiv 2405.09786, sections on parameter-oriented scaling consistency and on the
adaptive choice of layers.
Differs: layers count in the order of execution. The models are those with k, k + 1, ... amplified
layers, where the authors' ports begin at k + 1; there are fewer if the network has not as many
layers. The factor grows until the accuracy on trusted images breaks, where the authors' search
finds nothing. The score is -ln(1 - p) of the paper's mean probability p: the order is the same, and
a p that rounds to 1 does not tie. The threshold comes from trusted images that did not choose k;
the paper's is `threshold: 0.9`, and the share of the inputs above it is a fact. A network of few
batch norms has all of them amplified, and the method then fails on some triggers.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from raybd.detectors._inputs import halves, needs_classes
from raybd.metrics import thresholds
from raybd.metrics.classification import predictions
from raybd.training import layers
from raybd.training.inference import infer
from raybd.types.config import searched
from raybd.types.data import Pool, Split
from raybd.types.errors import Infeasible
from raybd.types.methods import StreamDetector
from raybd.types.models import Victim
from raybd.types.verdicts import Suspicion

PUBLISHED = 0.9
"""The paper's threshold."""
GROWTH = 1.25
"""What the factor is multiplied by while the accuracy does not break."""
MOST_GROWTHS = 20
"""After so many the factor is 87 times as large: no accuracy of a trained network survives it."""


class IbdPsc(StreamDetector):
    """Score by the probability of the predicted class under amplified batch norms."""

    pools: ClassVar[tuple[Pool, ...]] = ("train", "test")
    pool: Pool = "test"
    """Scores a stream of test inputs, or the training set."""
    factor: float = Field(1.5, gt=1, json_schema_extra=searched(low=1.2, high=3.0))
    """What scale and shift of a batch norm are multiplied by."""
    error: float = Field(0.6, gt=0, lt=1, json_schema_extra=searched(low=0.3, high=0.9))
    """Share of wrong predictions of trusted images that the fewest amplified layers must exceed."""
    models: int = Field(5, ge=1)
    """Amplified models; the first amplifies the fewest layers, each other one layer more."""
    threshold: float | None = Field(None, gt=0, lt=1)
    """Threshold of the mean probability, the paper's 0.9; unset: from trusted images, by `fpr`."""
    fpr: float = Field(0.01, gt=0, lt=1)
    """Share of clean inputs above the threshold, where it comes from trusted images."""

    @property
    def fewest_trusted(self) -> int:
        """One image to choose the layers, and one for the threshold."""
        return 2

    def cannot(self, encoder: nn.Module, num_classes: int) -> str | None:
        """Return why there is nothing to amplify: the encoder has no batch normalisation."""
        if any(isinstance(module, nn.BatchNorm2d) for module in encoder.modules()):
            return None
        return "ibd_psc amplifies batch normalisations, and the network has none"

    def learn(self, victim: Victim, clean: Split, rng: Generator) -> Callable[[Split], Suspicion]:
        """Choose the layers on half of the clean images, the threshold on the others.

        The facts are the factor, the fewest amplified layers and the layers of the network.
        Raises Infeasible without a head or batch normalisation, UserError for too few clean images.
        """
        needs_classes(victim, "ibd_psc")
        norms = layers.norms(victim, clean.x_NCHW[:2])
        if not norms:
            raise Infeasible("ibd_psc amplifies batch normalisations, and the network has none")
        learned, held = halves(clean, self.fewest_trusted, "ibd_psc", rng)
        factor, fewest = self.choose(victim, norms, learned)
        counts = range(fewest, min(fewest + self.models, len(norms) + 1))

        def consistency(x_BCHW: Tensor) -> Tensor:
            return self.consistency(victim, norms, counts, factor, x_BCHW)

        if self.threshold is not None:
            threshold = torch.tensor(-math.log(1 - self.threshold))
        else:
            held_M = infer(victim, held.x_NCHW, consistency)
            threshold = torch.tensor(thresholds.conformal(held_M, self.fpr))
        facts = {
            "factor": factor,
            "fewest amplified layers": float(fewest),
            "layers": float(len(norms)),
        }
        warning = None
        if factor > self.factor:
            warning = (
                f"factor {self.factor:g} did not break the accuracy on trusted images;"
                f" {factor:.3g} was taken"
            )

        def judge(suspects: Split) -> Suspicion:
            score_N = infer(victim, suspects.x_NCHW, consistency)
            above_N = score_N > -math.log(1 - PUBLISHED)
            share = {f"share above {PUBLISHED:g}": float(above_N.double().mean())}
            return Suspicion(score_N, threshold, warning=warning, facts={**facts, **share})

        return judge

    def choose(
        self, victim: Victim, norms: Sequence[nn.BatchNorm2d], clean: Split
    ) -> tuple[float, int]:
        """Return the factor, and the fewest last layers that break the accuracy with it.

        All layers are taken if no factor breaks it.
        """
        factor = self.factor
        for _ in range(MOST_GROWTHS):
            for count in range(1, len(norms) + 1):
                with amplified(norms, count, factor):
                    wrong_M = predictions(infer(victim, clean.x_NCHW)) != clean.y_N
                if float(wrong_M.double().mean()) > self.error:
                    return factor, count
            factor *= GROWTH
        return factor, len(norms)

    def consistency(
        self,
        victim: Victim,
        norms: Sequence[nn.BatchNorm2d],
        counts: Sequence[int],
        factor: float,
        x_BCHW: Tensor,
    ) -> Tensor:
        """Return -ln(1 - p), B; p is the mean probability of the unchanged model's class."""
        class_B1 = victim(x_BCHW).argmax(1, keepdim=True)
        others = []
        for count in counts:
            with amplified(norms, count, factor):
                logp_BK = victim(x_BCHW).float().log_softmax(1)
            # The sum of the other classes, because 1 - p rounds to 0.
            others.append(logp_BK.scatter(1, class_B1, -torch.inf).logsumexp(1))
        return math.log(len(counts)) - torch.stack(others).logsumexp(0)


@contextmanager
def amplified(norms: Sequence[nn.BatchNorm2d], count: int, factor: float) -> Iterator[None]:
    """Multiply scale and shift of the last `count` batch norms, given in order of execution."""
    # Both are factors of the output, so that its product is the same and no weight is touched.
    hooks = [
        norm.register_forward_hook(lambda module, given, out: factor * out)
        for norm in norms[-count:]
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
