"""Spectral signatures: poison stands out along the main direction in which its class varies.

Tran, Li and Madry 2018, arXiv 1811.00636, section 3 and algorithm 1.
Differs: the share that is flagged is a field instead of 1.5 times the true rate, which a defender
does not know; the absolute projection instead of its square (same order). `reference: trusted`
measures from the trusted images of the class and in units of their spread (whitening as in
SPECTRE, Hayase et al. 2021, arXiv 2104.11315, with trusted images instead of robust estimates),
and takes the threshold from them. The paper's score cannot tell clean images from poison when both
make up half of a class, as they do at rate 0.1 with ten classes: both lie equally far from the
class mean.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from raybd.training.inference import embeddings
from raybd.training.whitening import whitening
from raybd.types.data import Pool, Split
from raybd.types.methods import Detector, Feature
from raybd.types.models import Victim
from raybd.types.verdicts import Suspicion


class Spectral(Detector):
    """Score by the projection of the embedding on the main direction of its class."""

    pools: ClassVar[tuple[Pool, ...]] = ("train",)
    pool: Literal["train"] = "train"
    """Scores the training set."""
    reference: Literal["class", "trusted"] = "class"
    """What an image is compared with: all images of its class (paper), or the trusted ones."""
    remove: float = Field(0.15, gt=0, lt=1)
    """`class`: share of every class that is flagged; the paper's 1.5 times an assumed rate 0.1."""
    fpr: float = Field(0.01, gt=0, lt=1)
    """`trusted`: share of held-out trusted images above the threshold."""

    @property
    def reads(self) -> frozenset[Feature]:
        """The embeddings of all suspects."""
        return frozenset({"embedding"})

    @property
    def fewest_trusted(self) -> int:
        """Two for the spread, and two for the threshold, if it reads any."""
        return 4 if self.reference == "trusted" else 1

    def score(self, victim: Victim, suspects: Split, clean: Split, rng: Generator) -> Suspicion:
        """Score each training image within the class that it is labelled as."""
        z_ND = embeddings(victim, suspects).double()
        if self.reference == "class":
            return self.against_class(z_ND, suspects.y_N)

        # Shuffled, because `against_trusted` tells its halves apart by position.
        order = torch.randperm(len(clean), generator=rng)
        trusted = clean.select(order)
        trusted_ND = embeddings(victim, trusted).double()
        return self.against_trusted(z_ND, suspects.y_N, trusted_ND, trusted.y_N)

    def against_class(self, z_ND: Tensor, y_N: Tensor) -> Suspicion:
        """Score embeddings by the main direction of all embeddings of their class (paper)."""
        score_N = torch.zeros(len(z_ND))
        threshold_N = torch.zeros(len(z_ND))
        for label in y_N.unique():
            mine = y_N == label
            centered_ND = z_ND[mine] - z_ND[mine].mean(0)
            score_N[mine] = _project(centered_ND, _main_direction(centered_ND))
            threshold_N[mine] = torch.quantile(score_N[mine], 1 - self.remove)
        return Suspicion(score_N, threshold_N)

    def against_trusted(
        self, z_ND: Tensor, y_N: Tensor, trusted_ND: Tensor, trusted_y_N: Tensor
    ) -> Suspicion:
        """Score embeddings from centers and spread of trusted ones.

        The first half of the trusted embeddings gives both, the second half the threshold.
        """
        half = len(trusted_ND) // 2
        fit_ND, held_ND = trusted_ND[:half], trusted_ND[half:]
        fit_y_N, held_y_N = trusted_y_N[:half], trusted_y_N[half:]

        # A class without trusted images is centered on its own mean.
        seen = set(fit_y_N.tolist())
        center_of = {
            k: (fit_ND[fit_y_N == k] if k in seen else z_ND[y_N == k]).mean(0)
            for k in y_N.unique().tolist()
        }

        # All classes share one covariance: a single class has too few trusted images for its own.
        # A class that no suspect carries has no center.
        whiten_DD = whitening(
            torch.cat([fit_ND[fit_y_N == k] - center_of[k] for k in seen & center_of.keys()])
        )

        score_N = torch.zeros(len(z_ND))
        held = []
        for label, center_D in center_of.items():
            mine_ND = (z_ND[y_N == label] - center_D) @ whiten_DD
            # The suspects give the direction: trusted images do not vary along the poison.
            direction_D = _main_direction(mine_ND)
            score_N[y_N == label] = _project(mine_ND, direction_D)
            held.append(_project((held_ND[held_y_N == label] - center_D) @ whiten_DD, direction_D))

        # Whitened lengths have one unit in all classes, so that one threshold serves them all.
        return Suspicion(score_N, torch.quantile(torch.cat(held), 1 - self.fpr))


def _main_direction(z_ND: Tensor) -> Tensor:
    """Return the top right singular vector."""
    # The D x D product is much smaller than the N x D rows that an SVD would decompose.
    # `eigh` sorts in ascending order, so that the main direction is the last one.
    direction_D: Tensor = torch.linalg.eigh(z_ND.T @ z_ND).eigenvectors[:, -1]
    return direction_D


def _project(z_ND: Tensor, direction_D: Tensor) -> Tensor:
    """Return the length of each row along a direction, float32."""
    # The sign of a singular vector is arbitrary, so that the side of the center means nothing.
    length_N: Tensor = (z_ND @ direction_D).abs().float()
    return length_N
