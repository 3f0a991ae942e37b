"""SCAn: the embeddings of a poisoned class are those of two groups and not of one.

Tang, Wang, Tang and Zhang 2021, arXiv 1908.00686 (USENIX Security), sections on the two-component
decomposition, the untangling of a class, and the hypothesis test; constants as in BackdoorBench (Wu
et al. 2022, arXiv 2206.12654).
On trusted images an embedding is its class's identity plus a variation that all classes share. In
each class of suspects, the likelihoods of one and of two identities are compared.
Differs: a graded score (the class's anomaly index times how far an image lies towards the suspected
group); the mean of a single group is its posterior mean as those of two are, where the ports leave
out a factor that costs power; a class stands out only above the median; the covariance of
variations is shrunken (Ledoit and Wolf), because there may be fewer trusted images than dimensions;
the covariances have converged when they change by less than a share of themselves; 2-means starts
from the main axis, so that the order of the images is irrelevant; trusted images come without
replacement and not from test; a class is flagged only if trusted images avoid the suspected group,
which lets the threshold be lower (see the field).
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from raybd.detectors._anomaly import anomaly_index, chance_of, index_facts, too_few_classes
from raybd.training import layers
from raybd.training.inference import embeddings
from raybd.types.config import searched
from raybd.types.data import Pool, Split
from raybd.types.errors import UserError
from raybd.types.methods import Detector, Feature
from raybd.types.models import Victim
from raybd.types.verdicts import Suspicion

MOST_MOVES = 100
"""Rounds of 2-means at most."""


@dataclass(frozen=True)
class Identities:
    """How embeddings vary: identities of classes with covariance S_u, variations with S_e.

    Coordinates are those in which S_e is the identity and S_u diagonal.
    """

    middle_D: Tensor
    """The mean of all trusted embeddings."""
    axes_DD: Tensor
    """From centered embeddings to coordinates."""
    identity_D: Tensor
    """The variance of identities along each coordinate."""

    def coordinates(self, z_ND: Tensor) -> Tensor:
        """Return embeddings in coordinates; squared distances there are those of S_e^-1."""
        return (z_ND - self.middle_D) @ self.axes_DD

    def posterior(self, y_ND: Tensor) -> Tensor:
        """Return the posterior mean of the identity of a group of images, in coordinates.

        It is S_u (n S_u + S_e)^-1 times the sum of the n images.
        """
        shrunken_D: Tensor = self.identity_D / (len(y_ND) * self.identity_D + 1) * y_ND.sum(0)
        return shrunken_D


class ScanEm(Detector):
    """Score by whether two identities explain a class better, and on which side an image lies."""

    pools: ClassVar[tuple[Pool, ...]] = ("train",)
    pool: Literal["train"] = "train"
    """Scores the training set."""
    layer: str | None = None
    """The module of the encoder whose output, summed over its positions, is read; unset: the
    embedding."""
    iterations: int = Field(100, ge=1)
    """Rounds in which the two covariances are estimated, at most."""
    tolerance: float = Field(1e-5, gt=0)
    """They end once both covariances change by less than this share of themselves."""
    threshold: float = Field(2.718, gt=0, json_schema_extra=searched(low=2.0, high=7.389))
    """Anomaly index above which a class is flagged: e, as in the backdoor-toolbox. BackdoorBench
    has e^2 (7.389), which no target class reaches where few images were trained on. Chosen on
    badnets and blended at rate 0.1 on 4,000 images of CIFAR-10, and badnets on digits (small_cnn).
    """
    significance: float = Field(0.01, gt=0, lt=1)
    """A class is flagged only if the probability of so few trusted images in the suspected group is
    at most this."""

    @property
    def reads(self) -> frozenset[Feature]:
        """The embeddings of all suspects, unless another layer is named."""
        return frozenset({"embedding"} if self.layer is None else ())

    @property
    def fewest_trusted(self) -> int:
        """Two for a covariance."""
        return 2

    def score(self, victim: Victim, suspects: Split, clean: Split, rng: Generator) -> Suspicion:
        """Score each training image within the class that it is labelled as.

        The facts are the anomaly index of each class, and the rounds that the estimate took.
        """
        trusted_MD = self._features(victim, clean)
        z_ND = self._features(victim, suspects)
        found, rounds = identities(trusted_MD, clean.y_N, self.iterations, self.tolerance)
        y_ND = found.coordinates(z_ND)
        trusted_MD = found.coordinates(trusted_MD)

        label_K = suspects.y_N.unique()
        towards_N = torch.zeros(len(suspects), dtype=torch.float64)
        statistic_K = torch.zeros(len(label_K), dtype=torch.float64)
        avoided_K = torch.zeros(len(label_K), dtype=torch.bool)
        for place, label in enumerate(label_K):
            mine = suspects.y_N == label
            groups = untangled(found, y_ND[mine], trusted_MD[clean.y_N == label])
            towards_N[mine] = groups.towards_N
            statistic_K[place] = groups.statistic
            avoided_K[place] = groups.chance <= self.significance

        index_K = anomaly_index(statistic_K)
        score_N = torch.zeros(len(suspects), dtype=torch.float64)
        threshold_N = torch.zeros(len(suspects), dtype=torch.float64)
        flagged_K = (index_K > self.threshold) & avoided_K
        for label, index, flagged in zip(label_K, index_K, flagged_K, strict=True):
            mine = suspects.y_N == label
            # A negative index would turn the order of the images round.
            score_N[mine] = index.clamp_min(0) * towards_N[mine]
            # Halfway between the centers; no score lies above the highest one.
            threshold_N[mine] = index / 2 if flagged else score_N[mine].max()
        facts = {**index_facts(label_K, index_K), "rounds": float(rounds)}
        warning = too_few_classes("scan_em", len(label_K))
        return Suspicion(score_N.float(), threshold_N.float(), warning=warning, facts=facts)

    def _features(self, victim: Victim, split: Split) -> Tensor:
        if self.layer is None:
            return embeddings(victim, split).double()
        if self.layer not in dict(victim.encoder.named_modules()):
            raise UserError(
                f"scan_em: the encoder has no module {self.layer!r}",
                "Leave `layer` unset.",
                exit_code=1,
            )

        def summed(out: Tensor) -> Tensor:
            return out if out.ndim == 2 else layers.by_position(out).sum(2)

        return layers.activations(victim, split, [self.layer], summed)[self.layer].double()


def identities(
    z_MD: Tensor, y_M: Tensor, iterations: int, tolerance: float
) -> tuple[Identities, int]:
    """Estimate both covariances on trusted embeddings by expectation and maximisation.

    Returns them and the number of rounds.
    """
    middle_D = z_MD.mean(0)
    z_MD = z_MD - middle_D
    label_K, class_M = y_M.unique(return_inverse=True)
    count_K1 = class_M.bincount().double()[:, None]
    sum_KD = torch.zeros((len(label_K), z_MD.shape[1]), dtype=z_MD.dtype)
    sum_KD.index_add_(0, class_M, z_MD)

    u_KD = sum_KD / count_K1
    rounds = 0
    identity_DD, variation_DD = _covariances(u_KD, z_MD - u_KD[class_M])
    while True:
        # A pencil: V^T S_e V = 1 and V^T S_u V = diag(w) make the inverse of each class diagonal.
        root_DD = torch.linalg.cholesky(variation_DD)
        half_DD = torch.linalg.solve_triangular(root_DD, identity_DD, upper=False)
        both_DD = torch.linalg.solve_triangular(root_DD, half_DD.T, upper=False)
        w_D, vectors_DD = torch.linalg.eigh((both_DD + both_DD.T) / 2)
        w_D = w_D.clamp_min(0)
        axes_DD = torch.linalg.solve_triangular(root_DD.T, vectors_DD, upper=True)
        if rounds == iterations:
            break
        rounds += 1

        u_KD = w_D / (count_K1 * w_D + 1) * (sum_KD @ axes_DD) @ (variation_DD @ axes_DD).T
        before = (identity_DD, variation_DD)
        identity_DD, variation_DD = _covariances(u_KD, z_MD - u_KD[class_M])
        after = (identity_DD, variation_DD)
        if all(
            (new - old).norm() <= tolerance * old.norm()
            for new, old in zip(after, before, strict=True)
        ):
            iterations = rounds  # once more for the axes of the last estimate
    return Identities(middle_D, axes_DD, w_D), rounds


def _covariances(u_KD: Tensor, e_MD: Tensor) -> tuple[Tensor, Tensor]:
    """Return the covariance of identities and the shrunken one of variations."""
    # Imported late, so that a dry run, which imports this module, does not load scikit-learn.
    from sklearn.covariance import LedoitWolf

    shrunken_DD = torch.from_numpy(LedoitWolf().fit(e_MD.numpy()).covariance_)
    # Trusted images that are all equal have no variation, and it is divided by.
    tiny = 1e-9 * float(shrunken_DD.diagonal().mean()) + 1e-12
    shrunken_DD = shrunken_DD + tiny * torch.eye(len(shrunken_DD), dtype=shrunken_DD.dtype)
    centered_KD = u_KD - u_KD.mean(0)
    return centered_KD.T @ centered_KD / max(1, len(u_KD) - 1), shrunken_DD


@dataclass(frozen=True)
class Groups:
    """One class in two groups."""

    towards_N: Tensor
    """How far each suspect lies from the center of the group that holds more trusted images (0) to
    that of the other one (1)."""
    statistic: float
    """By how much two identities explain the class better than one, for each image."""
    chance: float
    """The probability of so few trusted images in the suspected group without poison."""


def untangled(found: Identities, y_ND: Tensor, trusted_MD: Tensor) -> Groups:
    """Divide the suspects and the trusted images of one class into two groups, in coordinates."""
    y_AD = torch.cat([y_ND, trusted_MD])
    upper_A = _two_means(y_AD)
    size = int(upper_A.sum())
    if size == 0 or size == len(y_AD):
        return Groups(torch.zeros(len(y_ND), dtype=y_ND.dtype), 0.0, 1.0)

    groups = (y_AD[~upper_A], y_AD[upper_A])
    one = (y_AD - found.posterior(y_AD)).square().sum()
    two = sum((group - found.posterior(group)).square().sum() for group in groups)

    trusted_upper_M = upper_A[len(y_ND) :]
    inside = int(trusted_upper_M.sum())
    outside = len(trusted_upper_M) - inside
    # Without trusted images to tell, the smaller group is suspected.
    upper_is_poison = inside < outside or (inside == outside and size < len(y_AD) / 2)
    clean, poison = groups if upper_is_poison else groups[::-1]
    axis_D = poison.mean(0) - clean.mean(0)
    towards_N = (y_ND - clean.mean(0)) @ axis_D / axis_D.square().sum()

    share = float((upper_A[: len(y_ND)] == upper_is_poison).double().mean())
    chance = chance_of(min(inside, outside), inside + outside, share)
    return Groups(towards_N, float(one - two) / len(y_AD), chance)


def _two_means(y_ND: Tensor) -> Tensor:
    """Return which of two groups each row belongs to, found from the two sides of the main axis."""
    centered_ND = y_ND - y_ND.mean(0)
    # Rows that are equal up to rounding have no two groups.
    if centered_ND.abs().max() <= 1e-9 * (1 + y_ND.abs().max()):
        return torch.zeros(len(y_ND), dtype=torch.bool)
    main_D = torch.linalg.eigh(centered_ND.T @ centered_ND).eigenvectors[:, -1]
    upper_N: Tensor = centered_ND @ main_D > 0

    for _ in range(MOST_MOVES):
        if not upper_N.any() or upper_N.all():
            break
        low_D = y_ND[~upper_N].mean(0)
        high_D = y_ND[upper_N].mean(0)
        nearer_N = (y_ND - (low_D + high_D) / 2) @ (high_D - low_D) > 0
        if torch.equal(nearer_N, upper_N):
            break
        upper_N = nearer_N
    return upper_N
