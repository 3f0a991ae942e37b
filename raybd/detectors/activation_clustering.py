"""Activation clustering: the embeddings of a poisoned class fall into two clusters.

Chen, Carvalho, Baracaldo, Ludwig, Edwards, Lee, Molloy and Srivastava 2018, arXiv 1811.03728, sections on the
method and on the analysis of clusters (independent components, 2-means, relative size).
Differs: a graded score (how far an embedding lies towards the suspected cluster, times how well the class splits) beside the
paper's yes or no; 2-means starts from the main axis, so that the order of the images plays no part; independent components are
whitened principal ones under a rotation, which 2-means does not see, so the rotation is left out. `suspect: fewer_clean` suspects
the cluster that trusted images avoid: the smaller one is the wrong one when poison outnumbers the class's own images (as at rate
0.1 with ten classes).
"""

from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from scipy.stats import binom
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import silhouette_score
from torch import Generator

from raybd.fit import embeddings
from raybd.types import Config, Split, Suspicion, Victim

Array = NDArray[np.float64]
_SILHOUETTE_SAMPLE = 2000


class ActivationClustering(Config):
    """Split every class in two by its embeddings, and suspect one of the halves."""

    pool: Literal["train"] = "train"
    """Scores the training set."""
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
        z_clean_ND = embeddings(victim, clean).double().numpy()
        score_N, threshold_N = np.zeros(len(suspects)), np.zeros(len(suspects))
        labels_N, clean_labels_N = suspects.y_N.numpy(), clean.y_N.numpy()
        for label in np.unique(labels_N):
            mine = labels_N == label
            score_N[mine], flagged = self._score_class(z_ND[mine], z_clean_ND[clean_labels_N == label])
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
            sample = min(len(z_ND), _SILHOUETTE_SAMPLE)
            weight = float(silhouette_score(part_ND, clusters.labels_, sample_size=sample, random_state=0))
        else:
            drawn = clusters.predict(reduce.transform(trusted_ND)) if len(trusted_ND) else np.zeros(0)
            inside = int((drawn == 1).sum())
            suspected = int(inside < share * len(drawn))
            held, expected = (inside, share) if suspected else (len(drawn) - inside, 1 - share)
            flagged = bool(binom.cdf(held, len(drawn), expected) <= self.significance)
            weight = expected - held / max(1, len(drawn))
        centers = clusters.cluster_centers_
        axis = centers[suspected] - centers[1 - suspected]
        towards_N = (part_ND - centers.mean(0)) @ axis / (axis @ axis)
        return max(weight, 0.0) * towards_N, flagged

    def _reduction(self, z_ND: Array) -> PCA:
        rank = int(np.linalg.matrix_rank(z_ND - z_ND.mean(0)))
        count = max(1, min(self.components, rank))
        return PCA(count, whiten=self.reduction == "ica", svd_solver="full").fit(z_ND)


def _two_means(part_ND: Array) -> KMeans:
    """2-means from the two sides of the first principal axis."""
    upper_N = part_ND[:, 0] > np.median(part_ND[:, 0])
    if upper_N.all() or not upper_N.any():
        upper_N = part_ND[:, 0] >= part_ND[:, 0].max()
    start = np.stack([part_ND[~upper_N].mean(0), part_ND[upper_N].mean(0)])
    return KMeans(2, init=start, n_init=1).fit(part_ND)
