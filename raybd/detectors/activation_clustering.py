"""Activation clustering: the embeddings of a poisoned class fall into two clusters.

Chen, Carvalho, Baracaldo, Ludwig, Edwards, Lee, Molloy and Srivastava 2018, arXiv 1811.03728,
sections on the method and on the analysis of clusters (independent components, 2-means, relative
size, silhouette).
Differs: a graded score (how far an embedding lies towards the suspected cluster, times how well the
class splits) beside the paper's yes or no; 2-means starts from the main axis, so that the order of
the images is irrelevant; independent components are whitened principal ones under a rotation, which
does not change 2-means and is left out. `suspect: fewer_clean` suspects the cluster that trusted
images avoid: the smaller one is the wrong one if poison outnumbers the class's own images (as at
rate 0.1 with ten classes).
"""

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Generator

from raybd.training.inference import embeddings
from raybd.types.data import Pool, Split
from raybd.types.methods import Detector, Feature
from raybd.types.models import Victim
from raybd.types.verdicts import Suspicion

if TYPE_CHECKING:
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA

Array = NDArray[np.float64]
MAX_SILHOUETTE_SAMPLE = 2000
"""Images of a class whose silhouette is computed: time and memory grow with the square."""


class ActivationClustering(Detector):
    """Split every class in two by its embeddings, and suspect one of the halves."""

    pools: ClassVar[tuple[Pool, ...]] = ("train",)
    pool: Literal["train"] = "train"
    """Scores the training set."""
    version: ClassVar[int] = 2
    reduction: Literal["ica", "pca"] = "ica"
    """Independent (paper) or principal components."""
    components: int = Field(10, ge=1)
    """Dimensions that are kept."""
    suspect: Literal["smaller", "fewer_clean"] = "smaller"
    """Which cluster is suspected: the smaller (paper), or the one that holds a lower share of the
    trusted images of a class than of the class itself."""
    largest_share: float = Field(0.35, gt=0, le=0.5)
    """`smaller`: a class is flagged if its smaller cluster holds at most this share of it."""
    significance: float = Field(0.01, gt=0, lt=1)
    """`fewer_clean`: a class is flagged if the probability of so few trusted images in the
    suspected cluster is at most this."""

    @property
    def reads(self) -> frozenset[Feature]:
        """The embeddings of all suspects."""
        return frozenset({"embedding"})

    def score(self, victim: Victim, suspects: Split, clean: Split, rng: Generator) -> Suspicion:
        """Score each training image within the class that it is labelled as.

        The facts `index[k]` say how well class k splits: its silhouette, or by how much trusted
        images avoid the suspected cluster.
        """
        z_ND = embeddings(victim, suspects).double().numpy()
        # `smaller` reads no trusted embeddings, and is spared the pass that computes them.
        trusted_ND = np.empty((len(clean), z_ND.shape[1]))
        if self.suspect == "fewer_clean":
            trusted_ND = embeddings(victim, clean).double().numpy()
        labels_N = suspects.y_N.numpy()
        clean_labels_N = clean.y_N.numpy()

        score_N = np.zeros(len(suspects))
        threshold_N = np.zeros(len(suspects))
        facts = {}
        for label in np.unique(labels_N):
            mine = labels_N == label
            trusted = trusted_ND[clean_labels_N == label]
            score_N[mine], index, flagged = self._score_class(z_ND[mine], trusted)
            # A score of 0 lies halfway between the centers; no score lies above the highest one.
            threshold_N[mine] = 0.0 if flagged else score_N[mine].max()
            facts[f"index[{label}]"] = index
        return Suspicion(torch.from_numpy(score_N), torch.from_numpy(threshold_N), facts=facts)

    def _score_class(self, z_ND: Array, trusted_ND: Array) -> tuple[Array, float, bool]:
        """Return the scores of one class, how well it splits, and whether it looks poisoned."""
        # Fewer images, or equal ones, have no two clusters to compare.
        if len(z_ND) < 4 or np.allclose(z_ND, z_ND[0]):
            return np.zeros(len(z_ND)), 0.0, False
        reduce = self._reduction(z_ND)
        part_ND = reduce.transform(z_ND)
        clusters = _two_means(part_ND)

        if self.suspect == "smaller":
            suspected, index, flagged = self._smaller(part_ND, clusters)
        else:
            trusted_ND = reduce.transform(trusted_ND) if len(trusted_ND) else trusted_ND
            suspected, index, flagged = self._fewer_clean(clusters, trusted_ND)

        centers = clusters.cluster_centers_
        axis = centers[suspected] - centers[1 - suspected]
        towards_N = (part_ND - centers.mean(0)) @ axis / (axis @ axis)
        # A negative silhouette would reverse the order of the images.
        return max(index, 0.0) * towards_N, index, flagged

    def _smaller(self, part_ND: Array, clusters: "KMeans") -> tuple[int, float, bool]:
        """Suspect the smaller cluster; return its number, the silhouette, and whether to flag."""
        share = float((clusters.labels_ == 1).mean())
        order = np.random.RandomState(0).permutation(len(part_ND))
        sample = order[:MAX_SILHOUETTE_SAMPLE]
        index = silhouette(part_ND[sample], clusters.labels_[sample])
        return int(share <= 0.5), index, min(share, 1 - share) <= self.largest_share

    def _fewer_clean(self, clusters: "KMeans", trusted_ND: Array) -> tuple[int, float, bool]:
        """Suspect the cluster with fewer trusted images than its size would give by chance.

        Returns its number, the missing share of the trusted images, and whether to flag.
        """
        from scipy.stats import binom

        share = float((clusters.labels_ == 1).mean())
        drawn = clusters.predict(trusted_ND) if len(trusted_ND) else np.zeros(0)
        inside = int((drawn == 1).sum())
        suspected = int(inside < share * len(drawn))

        held = inside if suspected else len(drawn) - inside
        expected = share if suspected else 1 - share

        # Without poison, trusted images fall into a cluster in proportion to its size.
        # A class without any is not flagged: with no draws the cdf is 1.
        flagged = bool(binom.cdf(held, len(drawn), expected) <= self.significance)
        return suspected, expected - held / max(1, len(drawn)), flagged

    def _reduction(self, z_ND: Array) -> "PCA":
        """Fit the reduction, without directions in which nothing varies."""
        from sklearn.decomposition import PCA

        reduce = PCA(
            min(self.components, *z_ND.shape),
            whiten=self.reduction == "ica",
            # The covariance is the smaller matrix only if there are more images than features.
            svd_solver="full" if z_ND.shape[1] > len(z_ND) else "covariance_eigh",
        ).fit(z_ND)

        # Whitening would divide by the deviation along such a direction, which is rounding alone.
        variance_D = reduce.explained_variance_
        smallest = variance_D[0] * len(z_ND) * np.finfo(np.float64).eps
        rank = max(1, int((variance_D > smallest).sum()))
        return reduce if rank == len(variance_D) else reduce.set_params(n_components=rank).fit(z_ND)


def silhouette(part_ND: Array, cluster_N: NDArray[np.int32]) -> float:
    """Return how well two clusters are apart, in -1..1 (Rousseeuw 1987); 0 if there is only one."""
    from scipy.spatial.distance import cdist

    member_N2 = cluster_N[:, None] == np.arange(2)
    size_2 = member_N2.sum(0)
    if not size_2.all():
        return 0.0

    # Rousseeuw defines the silhouette of an image that is alone in its cluster as 0.
    alone_N = size_2[cluster_N] == 1
    sum_N2 = cdist(part_ND, part_ND) @ member_N2
    # An image's distance of 0 to itself must not count in the mean.
    inside_N = sum_N2[member_N2] / np.maximum(size_2[cluster_N] - 1, 1)
    outside_N = sum_N2[~member_N2] / size_2[1 - cluster_N]
    # Images that all lie at one place would divide 0 by 0.
    widest_N = np.maximum(inside_N, outside_N).clip(1e-300)
    return float(np.where(alone_N, 0.0, (outside_N - inside_N) / widest_N).mean())


def _two_means(part_ND: Array) -> "KMeans":
    """Run 2-means from the two sides of the first principal axis."""
    # Imported late, so that a dry run, which imports this module, does not load scikit-learn.
    from sklearn.cluster import KMeans

    upper_N = part_ND[:, 0] > np.median(part_ND[:, 0])
    if upper_N.all() or not upper_N.any():  # so many equal values that one side would be empty
        upper_N = part_ND[:, 0] >= part_ND[:, 0].max()
    start = np.stack([part_ND[~upper_N].mean(0), part_ND[upper_N].mean(0)])
    # With a start that follows from the data, one run is enough and nothing is drawn.
    return KMeans(2, init=start, n_init=1).fit(part_ND)
