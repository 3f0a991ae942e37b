"""Separability: how well each layer tells poisoned images from clean ones of the target class.

Qi, Xie, Mahloujifar and Mittal 2023 (ICLR), on latent separability: many detectors assume it.
Fisher 1936 (ratio), Rousseeuw 1987 (silhouette), Szekely, Rizzo and Bakirov 2007 (distance
correlation), Roy and Vetterli 2007 (effective rank).
Differs: five statistics side by side, for each layer. The AUROC is along the difference of means of
one half of the images and measured on the other half, both ways: in many dimensions, the direction
between any two samples would separate them.
"""

from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field
from torch import Generator, Tensor

from raybd.analyses._units import Reduction, floats, layers_of, reduced
from raybd.types.data import CLEAN, POISON
from raybd.types.errors import UserError
from raybd.types.methods import Analysis, AnalysisInput

if TYPE_CHECKING:
    import pyarrow as pa

FEWEST = 4
"""Images of each kind that are needed: both halves of both need two."""


class Separability(Analysis):
    """Statistics of clean against poisoned images within the target class, for each layer."""

    needs_trigger: ClassVar[bool] = True
    looks_at_twin: ClassVar[bool] = True
    layer: str = "all"
    """Dotted name of a module of the encoder, last_map, features, or all."""
    reduction: Reduction = "mean"
    """What a map is reduced to over its positions."""
    images: int = Field(300, ge=FEWEST)
    """Largest number of images of each kind, drawn at random."""

    def analyse(self, given: AnalysisInput, rng: Generator) -> "pa.Table":
        """Return layer, statistic, value and pool.

        Statistics: auroc, silhouette, fisher (squared distance of the means by the sum of the
        variances), distance_correlation (with which of both an image is), effective_rank_clean and
        effective_rank_poison. The images are those of the training set of the label that most
        poisoned ones have; of the test set where the training set holds no poison (column pool).
        Raises UserError if there are fewer than four of a kind.
        """
        import pyarrow as pa

        clean_NCHW, poison_NCHW, pool = self._images(given, rng)
        if min(len(clean_NCHW), len(poison_NCHW)) < FEWEST:
            raise UserError(
                f"separability: the target class has {len(clean_NCHW)} clean and "
                f"{len(poison_NCHW)} poisoned images, it needs {FEWEST} of each",
                "Poison more images, or take more.",
                exit_code=1,
            )
        names = layers_of("separability", given.victim, clean_NCHW, self.layer)
        clean = reduced(given.victim, clean_NCHW, names, self.reduction)
        poison = reduced(given.victim, poison_NCHW, names, self.reduction)

        rows = [
            (name, statistic, value)
            for name in names
            for statistic, value in statistics(clean[name], poison[name]).items()
        ]
        return pa.table(
            {
                "layer": [name for name, _, _ in rows],
                "statistic": [statistic for _, statistic, _ in rows],
                "value": floats(value for _, _, value in rows),
                "pool": [pool] * len(rows),
            }
        )

    def _images(self, given: AnalysisInput, rng: Generator) -> tuple[Tensor, Tensor, str]:
        """Return clean and poisoned images of the target class, in random order, and their pool."""
        train, role_N = given.train, given.role_N
        if bool((role_N == POISON).any()):
            target = int(train.y_N[role_N == POISON].mode().values)
            clean_N = (role_N == CLEAN) & (train.y_N == target)
            poison_N = (role_N == POISON) & (train.y_N == target)
            found = train.x_NCHW[clean_N], train.x_NCHW[poison_N], "train"
        else:
            pairs, test = given.pairs, given.test
            target = int(pairs.wanted_M.mode().values) if len(pairs) else 0
            wanted_M = pairs.wanted_M == target
            found = test.x_NCHW[test.y_N == target], pairs.worn_MCHW[wanted_M], "test"
        clean_NCHW, poison_NCHW, pool = found
        return self._some(clean_NCHW, rng), self._some(poison_NCHW, rng), pool

    def _some(self, x_NCHW: Tensor, rng: Generator) -> Tensor:
        return x_NCHW[torch.randperm(len(x_NCHW), generator=rng)[: self.images]]


def statistics(clean_ND: Tensor, poison_MD: Tensor) -> dict[str, float]:
    """Return the statistics of two samples, in random order; NaN where all points are equal."""
    from sklearn.metrics import silhouette_score

    clean_ND, poison_MD = clean_ND.double(), poison_MD.double()
    both_ND = torch.cat([clean_ND, poison_MD])
    is_poison_N = (torch.arange(len(both_ND)) >= len(clean_ND)).double()
    within = float(clean_ND.var(0).sum() + poison_MD.var(0).sum())
    between = float((poison_MD.mean(0) - clean_ND.mean(0)).square().sum())
    return {
        "auroc": _held_out_auroc(clean_ND, poison_MD),
        "silhouette": float(silhouette_score(both_ND.numpy(), is_poison_N.numpy())),
        "fisher": between / within if within else float("nan"),
        "distance_correlation": _distance_correlation(both_ND, is_poison_N[:, None]),
        "effective_rank_clean": _effective_rank(clean_ND),
        "effective_rank_poison": _effective_rank(poison_MD),
    }


def _held_out_auroc(clean_ND: Tensor, poison_MD: Tensor) -> float:
    """Return the mean of both ways: the direction of one half, measured on the other half."""
    from sklearn.metrics import roc_auc_score

    found = []
    for first in (0, 1):
        direction_D = poison_MD[first::2].mean(0) - clean_ND[first::2].mean(0)
        parts = [poison_MD[1 - first :: 2] @ direction_D, clean_ND[1 - first :: 2] @ direction_D]
        positive_N = torch.cat([torch.ones(len(parts[0])), torch.zeros(len(parts[1]))])
        found.append(float(roc_auc_score(positive_N.numpy(), torch.cat(parts).numpy())))
    return sum(found) / 2


def _distance_correlation(x_ND: Tensor, y_ND: Tensor) -> float:
    """Return the distance correlation: 0 for independent variables, NaN for a constant one."""
    centred = []
    for points_ND in (x_ND, y_ND):
        far_NN = torch.cdist(points_ND, points_ND)
        row_N1 = far_NN.mean(1, keepdim=True)
        centred.append(far_NN - row_N1 - row_N1.T + far_NN.mean())
    x_NN, y_NN = centred
    scale = ((x_NN * x_NN).mean() * (y_NN * y_NN).mean()).sqrt()
    return float(((x_NN * y_NN).mean().clamp_min(0) / scale).sqrt()) if scale else float("nan")


def _effective_rank(points_ND: Tensor) -> float:
    """Return e to the entropy of the singular values (as shares); NaN if all points are equal."""
    value_D = torch.linalg.svdvals(points_ND - points_ND.mean(0))
    total = value_D.sum()
    return float(torch.special.entr(value_D / total).sum().exp()) if total else float("nan")
