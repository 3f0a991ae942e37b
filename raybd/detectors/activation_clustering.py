"""Activation clustering: the embeddings of a poisoned class fall into two clusters.

Chen, Carvalho, Baracaldo, Ludwig, Edwards, Lee, Molloy and Srivastava 2018, arXiv 1811.03728, sections on the
method and on the analysis of clusters (independent components, 2-means, relative size).
Differs: a graded score (how far an embedding lies towards the suspected cluster, times how well the class splits) beside the
paper's yes or no; 2-means starts from the main axis, so that the order of the images plays no part; independent components are
whitened principal ones under a rotation, which 2-means does not see, so the rotation is left out. `suspect: fewer_clean` suspects
the cluster that trusted images avoid: the smaller one is the wrong one when poison outnumbers the class's own images (as at rate
0.1 with ten classes).
"""

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Generator

from raybd.training.inference import embeddings
from raybd.types.data import Split
from raybd.types.methods import Detector
from raybd.types.models import Victim
from raybd.types.verdicts import Suspicion

if TYPE_CHECKING:
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA

Array = NDArray[np.float64]
_SILHOUETTE_SAMPLE = 2000


class ActivationClustering(Detector):
    """Split every class in two by its embeddings, and suspect one of the halves."""

    pool: Literal["train"] = "train"
    """Scores the training set."""
    version: ClassVar[int] = 2
    embeds: ClassVar[bool] = True
    reduction: Literal["ica", "pca"] = "ica"
    """Independent (paper) or principal components."""
    components: int = Field(10, ge=1)
    """Dimensions that are kept."""
    suspect: Literal["smaller", "fewer_clean"] = "smaller"
    """Which cluster is suspected: the smaller (paper), or the one that holds a lower share of the trusted images of a class than
    of the class itself."""
    largest_share: float = Field(0.35, gt=0, le=0.5)
    """`smaller`: a class is flagged when its smaller cluster holds at most this share of it."""
    significance: float = Field(0.01, gt=0, lt=1)
    """`fewer_clean`: a class is flagged when so few trusted images in the suspected cluster have at most this probability."""

    def score(self, victim: Victim, suspects: Split, clean: Split, rng: Generator) -> Suspicion:
        """Suspicion of each training image, within the class that it is labelled as."""
        z_ND = embeddings(victim, suspects).double().numpy()
        asked = self.suspect == "fewer_clean"
        z_clean_ND = (
            embeddings(victim, clean).double().numpy()
            if asked
            else np.empty((len(clean), z_ND.shape[1]))
        )
        score_N, threshold_N = np.zeros(len(suspects)), np.zeros(len(suspects))
        labels_N, clean_labels_N = suspects.y_N.numpy(), clean.y_N.numpy()
        for label in np.unique(labels_N):
            mine = labels_N == label
            score_N[mine], flagged = self._score_class(
                z_ND[mine], z_clean_ND[clean_labels_N == label]
            )
            threshold_N[mine] = 0.0 if flagged else score_N[mine].max()
        return Suspicion(torch.from_numpy(score_N), torch.from_numpy(threshold_N))

    def _score_class(self, z_ND: Array, trusted_ND: Array) -> tuple[Array, bool]:
        """The scores of one class, and whether it looks poisoned."""
        if len(z_ND) < 4 or np.allclose(z_ND, z_ND[0]):
            return np.zeros(len(z_ND)), False
        reduce = self._reduction(z_ND)
        part_ND = reduce.transform(z_ND)
        clusters = _two_means(part_ND)
        share = float((clusters.labels_ == 1).mean())
        if self.suspect == "smaller":
            suspected, flagged = int(share <= 0.5), min(share, 1 - share) <= self.largest_share
            sample = np.random.RandomState(0).permutation(len(z_ND))[:_SILHOUETTE_SAMPLE]
            weight = silhouette(part_ND[sample], clusters.labels_[sample])
        else:
            drawn = (
                clusters.predict(reduce.transform(trusted_ND)) if len(trusted_ND) else np.zeros(0)
            )
            inside = int((drawn == 1).sum())
            suspected = int(inside < share * len(drawn))
            held, expected = (inside, share) if suspected else (len(drawn) - inside, 1 - share)
            from scipy.stats import binom

            flagged = bool(binom.cdf(held, len(drawn), expected) <= self.significance)
            weight = expected - held / max(1, len(drawn))
        centers = clusters.cluster_centers_
        axis = centers[suspected] - centers[1 - suspected]
        towards_N = (part_ND - centers.mean(0)) @ axis / (axis @ axis)
        return max(weight, 0.0) * towards_N, flagged

    def _reduction(self, z_ND: Array) -> "PCA":
        """Without directions in which nothing varies, which whitening would blow up."""
        from sklearn.decomposition import PCA

        reduce = PCA(
            min(self.components, *z_ND.shape),
            whiten=self.reduction == "ica",
            svd_solver="full" if z_ND.shape[1] > len(z_ND) else "covariance_eigh",
        ).fit(z_ND)
        variance_D = reduce.explained_variance_
        rank = max(
            1, int((variance_D > variance_D[0] * len(z_ND) * np.finfo(np.float64).eps).sum())
        )
        return reduce if rank == len(variance_D) else reduce.set_params(n_components=rank).fit(z_ND)


def silhouette(part_ND: Array, cluster_N: NDArray[np.int32]) -> float:
    """How well two clusters are apart, in -1..1 (Rousseeuw 1987); 0 where there is one."""
    from scipy.spatial.distance import cdist

    member_N2 = cluster_N[:, None] == np.arange(2)
    size_2, alone_N = member_N2.sum(0), member_N2.sum(0)[cluster_N] == 1
    if not size_2.all():
        return 0.0
    sum_N2 = cdist(part_ND, part_ND) @ member_N2
    inside_N = sum_N2[member_N2] / np.maximum(size_2[cluster_N] - 1, 1)
    outside_N = sum_N2[~member_N2] / size_2[1 - cluster_N]
    return float(
        np.where(
            alone_N, 0.0, (outside_N - inside_N) / np.maximum(inside_N, outside_N).clip(1e-300)
        ).mean()
    )


def _two_means(part_ND: Array) -> "KMeans":
    """2-means from the two sides of the first principal axis."""
    from sklearn.cluster import KMeans

    upper_N = part_ND[:, 0] > np.median(part_ND[:, 0])
    if upper_N.all() or not upper_N.any():
        upper_N = part_ND[:, 0] >= part_ND[:, 0].max()
    start = np.stack([part_ND[~upper_N].mean(0), part_ND[upper_N].mean(0)])
    return KMeans(2, init=start, n_init=1).fit(part_ND)
