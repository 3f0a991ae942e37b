"""Spectral signatures: poison stands out along the main direction in which its class varies.

Tran, Li and Madry 2018, arXiv 1811.00636, section 3 and algorithm 1.
Differs: the share that is flagged is a field instead of 1.5 times the true rate, which a defender does not know; the absolute
projection instead of its square (same order). `reference: trusted` measures from the trusted images of the class and in units of
their spread (whitening as in SPECTRE, Hayase et al. 2021, arXiv 2104.11315, with trusted images in place of robust estimates), and
takes the threshold from them. The paper's score can't tell clean images from poison when both make up half of a class, as they do
at rate 0.1 with ten classes: seen from the class mean both lie equally far away.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from raybd.training.inference import embeddings
from raybd.types.data import Split
from raybd.types.methods import Detector
from raybd.types.models import Victim
from raybd.types.verdicts import Suspicion


class Spectral(Detector):
    """Score by the projection of the embedding on the main direction of its class."""

    pool: Literal["train"] = "train"
    """Scores the training set."""
    embeds: ClassVar[bool] = True
    reference: Literal["class", "trusted"] = "class"
    """What an image is held against: all images of its class (paper), or the trusted ones."""
    remove: float = Field(0.15, gt=0, lt=1)
    """`class`: share of every class that is flagged; the paper's 1.5 times an assumed rate of 0.1."""
    fpr: float = Field(0.01, gt=0, lt=1)
    """`trusted`: share of held-out trusted images above the threshold."""

    def score(self, victim: Victim, suspects: Split, clean: Split, rng: Generator) -> Suspicion:
        """Suspicion of each training image, within the class that it is labelled as."""
        z_ND = embeddings(victim, suspects).double()
        if self.reference == "class":
            return self._against_class(z_ND, suspects.y_N)
        order = torch.randperm(len(clean), generator=rng)
        trusted = clean.select(order)
        return self._against_trusted(
            z_ND, suspects.y_N, embeddings(victim, trusted).double(), trusted.y_N
        )

    def _against_class(self, z_ND: Tensor, y_N: Tensor) -> Suspicion:
        score_N, threshold_N = torch.zeros(len(z_ND)), torch.zeros(len(z_ND))
        for label in y_N.unique():
            mine = y_N == label
            centered_ND = z_ND[mine] - z_ND[mine].mean(0)
            score_N[mine] = _project(centered_ND, _main_direction(centered_ND))
            threshold_N[mine] = torch.quantile(score_N[mine], 1 - self.remove)
        return Suspicion(score_N, threshold_N)

    def _against_trusted(
        self, z_ND: Tensor, y_N: Tensor, trusted_ND: Tensor, trusted_y_N: Tensor
    ) -> Suspicion:
        """One half of the trusted images gives centers and spread, the other half the threshold."""
        half = len(trusted_ND) // 2
        fit_ND, fit_y_N, held_ND, held_y_N = (
            trusted_ND[:half],
            trusted_y_N[:half],
            trusted_ND[half:],
            trusted_y_N[half:],
        )
        seen = set(fit_y_N.tolist())
        center_of = {
            k: (fit_ND[fit_y_N == k] if k in seen else z_ND[y_N == k]).mean(0)
            for k in y_N.unique().tolist()
        }
        whiten_DD = _whitening(
            torch.cat([fit_ND[fit_y_N == k] - center_of[k] for k in seen & center_of.keys()])
        )
        score_N, held = torch.zeros(len(z_ND)), []
        for label, center_D in center_of.items():
            mine_ND = (z_ND[y_N == label] - center_D) @ whiten_DD
            direction_D = _main_direction(mine_ND)
            score_N[y_N == label] = _project(mine_ND, direction_D)
            held.append(_project((held_ND[held_y_N == label] - center_D) @ whiten_DD, direction_D))
        return Suspicion(score_N, torch.quantile(torch.cat(held), 1 - self.fpr))


def _whitening(residual_ND: Tensor) -> Tensor:
    """The inverse square root of the (shrunken) covariance within classes."""
    from sklearn.covariance import LedoitWolf

    covariance = torch.from_numpy(
        LedoitWolf(assume_centered=True).fit(residual_ND.numpy()).covariance_
    )
    values_D, vectors_DD = torch.linalg.eigh(covariance)
    scaled_DD: Tensor = vectors_DD * values_D.clamp_min(1e-12).rsqrt()
    return scaled_DD


def _main_direction(z_ND: Tensor) -> Tensor:
    """The top right singular vector."""
    direction_D: Tensor = torch.linalg.eigh(z_ND.T @ z_ND).eigenvectors[:, -1]
    return direction_D


def _project(z_ND: Tensor, direction_D: Tensor) -> Tensor:
    length_N: Tensor = (z_ND @ direction_D).abs().float()
    return length_N
