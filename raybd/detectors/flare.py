"""FLARE: poison leaves the usual range of some normalisation, and so forms clusters of its own.

Hou, Luo, Hua, Chen, Zhang and Li 2025, arXiv 2411.19479, sections on abnormal representations, on
subspaces, and on splitting clusters; constants as in the public code of BackdoorBox. Experimental:
no published figure can be repeated, because defaults are not named there.
An image is represented by the least log-likelihood of the inputs of each batch normalisation under
its running statistics. The images are clustered by density, and the largest cluster is clean.
Differs: a graded score (how early an image leaves the clean cluster); principal components of
standardised values instead of UMAP; a single-linkage tree of its own, because scikit-learn's
HDBSCAN does not hand its tree out; a split that would leave less than half of the images does not
count. Labels are ignored.
"""

from itertools import count
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Generator, Tensor, nn

from raybd.detectors._density import leaving, linkage
from raybd.training import layers
from raybd.training.inference import infer
from raybd.types.config import searched
from raybd.types.data import Pool, Split
from raybd.types.errors import Infeasible
from raybd.types.methods import Detector
from raybd.types.models import Victim
from raybd.types.verdicts import Suspicion

Array = NDArray[np.float64]
ROUNDING = 1e-6
"""Score by which an image in the clean cluster lies below the split, at least."""


class Flare(Detector):
    """Score by how early an image leaves the largest cluster of normalisation statistics."""

    pools: ClassVar[tuple[Pool, ...]] = ("train",)
    pool: Literal["train"] = "train"
    """Scores the training set."""
    components: int = Field(10, ge=1, json_schema_extra=searched(choices=[2, 5, 10, 20]))
    """Principal components of the likelihoods that are kept."""
    smallest: int = Field(100, ge=2, json_schema_extra=searched(low=20, high=200, log=True))
    """Images without which a branch of the tree is no cluster."""
    neighbours: int = Field(10, ge=1)
    """The distance to this neighbour is the reciprocal of an image's density."""
    levels: int = Field(3, ge=1)
    """Splits of the largest cluster that are looked at, at most."""
    jump: float = Field(0.02, gt=0, json_schema_extra=searched(low=0.005, high=0.5, log=True))
    """Density (in reciprocals of a distance) by which a cluster must outlast its split to count."""

    least_clean: float = Field(0.5, gt=0, lt=1)
    """Share of the images that the clean cluster must hold: a split that leaves less divides clean
    images."""

    def cannot(self, encoder: nn.Module, num_classes: int) -> str | None:
        """Return why there are no statistics: there is no batch normalisation."""
        if any(isinstance(module, nn.BatchNorm2d) for module in encoder.modules()):
            return None
        return "flare needs batch normalisation"

    def score(self, victim: Victim, suspects: Split, clean: Split, rng: Generator) -> Suspicion:
        """Score each training image; trusted images are not used.

        The facts are the number of layers from the last on that were left out, and the share of the
        images in the clean cluster. Raises Infeasible without batch normalisation.
        """
        if reason := self.cannot(victim.encoder, 0):
            raise Infeasible(reason)
        v_NL = likelihoods(victim, suspects)
        for left_out in range(v_NL.shape[1]):
            used_NL = v_NL[:, : v_NL.shape[1] - left_out].numpy()
            found = self._split(self._reduced(used_NL))
            if found is not None:
                break

        if found is None:
            score_N = -v_NL.min(1).values
            facts = {"layers left out": float(v_NL.shape[1]), "clean cluster": 1.0}
            warning = "flare: no cluster stands out at any depth, and nothing is flagged"
            return Suspicion(score_N.float(), score_N.max().float(), warning=warning, facts=facts)
        density_N, cut = found
        # The denser the cluster is where an image leaves it, the less suspicious it is. The
        # logarithm, because the densities of nearly equal images are huge.
        score_N = torch.from_numpy(np.log(cut / density_N)).float()
        # Images that leave at the split itself have a score of 0, but for rounding.
        threshold = torch.tensor(-ROUNDING)
        facts = {
            "layers left out": float(left_out),
            "clean cluster": float((score_N <= threshold).double().mean()),
        }
        return Suspicion(score_N, threshold, facts=facts)

    def _reduced(self, v_NL: Array) -> Array:
        """Return the main components of standardised values; layers that are constant have none."""
        standard_NL = v_NL - v_NL.mean(0)
        spread_L = standard_NL.std(0)
        standard_NL = standard_NL[:, spread_L > 1e-9] / spread_L[spread_L > 1e-9]
        _, axes_LL = np.linalg.eigh(standard_NL.T @ standard_NL)
        main_NL: Array = standard_NL @ axes_LL[:, ::-1][:, : self.components]
        return main_NL

    def _split(self, y_NL: Array) -> tuple[Array, float] | None:
        """Return the density at which each image leaves the clean cluster, and where it begins.

        None if no split of the largest cluster lasts.
        """
        if len(y_NL) < 2 * self.smallest or not y_NL.shape[1]:
            return None
        density_N, splits = leaving(linkage(y_NL, self.neighbours), self.smallest)
        lasting = (
            (before, after)
            for level, before, after in zip(count(), splits[:-1], splits[1:], strict=False)
            if level < self.levels
            and after - before > self.jump
            and (density_N > (1 + ROUNDING) * before).mean() >= self.least_clean
        )
        found = next(lasting, None)
        return None if found is None else (density_N, found[0])


def likelihoods(victim: Victim, split: Split) -> Tensor:
    """Return the least log-likelihood of each image at each batch normalisation, N x L, float64.

    Over channels and positions, of the input under a normal distribution with the running mean and
    variance; layers are in the order in which they run.
    """
    called = layers.trace(victim, split.x_NCHW[:2])
    norms = {call.name: call.module for call in called if isinstance(call.module, nn.BatchNorm2d)}

    def extremes(x_BCHW: Tensor) -> Tensor:
        # The least likely position of a channel is its lowest or its highest one.
        return torch.stack([x_BCHW.amin((2, 3)), x_BCHW.amax((2, 3))], 1)

    def read(x_BCHW: Tensor) -> Tensor:
        with layers.reading(victim, list(norms), extremes, inputs=True) as seen:
            victim.embed(x_BCHW)
        return torch.stack([_least(seen[name], norm) for name, norm in norms.items()], 1)

    return infer(victim, split.x_NCHW, read).double()


def _least(x_B2C: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    """Return the least log-likelihood over channels."""
    assert norm.running_mean is not None and norm.running_var is not None
    # A channel that has always been silent has no variance.
    usual = torch.distributions.Normal(
        norm.running_mean, norm.running_var.clamp_min(norm.eps).sqrt(), validate_args=False
    )
    least_B: Tensor = usual.log_prob(x_B2C.float()).flatten(1).amin(1)
    return least_B
