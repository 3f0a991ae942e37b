"""Scores of several detectors as one score, and which samples it makes suspects.

Everything is computed from scores alone, so that stored scores can be combined without running a
detector again. Clean samples that were held out say how high a clean sample scores by chance: that
gives p-values without any assumption about the scores, if held-out and other clean samples were
treated alike.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

FALSE_ALARMS = 0.01
"""No sample with a larger p-value is flagged, however many there are: in a class with poison, clean
samples score higher than elsewhere, which no held-out sample of another class tells."""
ROUNDING = 1e-9
"""Levels that differ by less are equal."""


def rank_mean(score_MN: Tensor) -> Tensor:
    """Return one score for each of N samples: the mean over M methods of its normal score, float64.

    The normal score of rank r among N is the quantile of the standard normal distribution at
    (r - 1/2) / N; ties share their mean rank. Unlike a mean of ranks, it lets a method that is sure
    count more than one that is not. The units of the scores play no part. A rank depends on
    all samples: put those that are to be compared into one call.
    """
    from scipy.stats import norm, rankdata

    ranks_MN = rankdata(score_MN.double().numpy(), axis=1)
    share_MN = (ranks_MN - 0.5) / score_MN.shape[1]
    return torch.from_numpy(norm.ppf(share_MN).mean(axis=0))


def conformal_p(score_N: Tensor, held_M: Tensor) -> Tensor:
    """Return the p-value of each score against those of held-out clean samples, N, float64.

    It is (1 + the number of held-out scores that are at least as high) / (M + 1): at most t with
    probability t for a clean sample (Vovk, Gammerman and Shafer 2005; Bates, Candes, Lei, Romano
    and Sesia 2023, arXiv 2104.08279).
    """
    sorted_M = held_M.double().sort().values
    # The first place whose value is not below the score: from there on, all are at least as high.
    below_N = torch.searchsorted(sorted_M, score_N.double().contiguous())
    return (1 + len(sorted_M) - below_N).double() / (len(sorted_M) + 1)


def agreed_p(p_FN: Tensor, held_F: Tensor) -> Tensor:
    """Return one p-value for the conformal p-values of F folds, N, float64.

    Stouffer's mean of normal scores, with the variance that the mean has if the folds are
    correlated; their correlation is measured on the samples themselves. Poison makes it larger, and
    the p-values with it: it errs on the careful side. `held_F` is the number of held-out samples of
    each fold, or of each p-value (F x N) if they differ.
    """
    from scipy.stats import norm

    # In the middle of its step, because a p-value of 1 has no normal score.
    held_FN = held_F.double().reshape(len(p_FN), -1)
    middle_FN = p_FN.double() - 0.5 / (held_FN + 1)
    z_FN = torch.from_numpy(norm.isf(middle_FN.numpy()))
    folds = len(z_FN)
    if folds == 1:
        return p_FN[0].double()
    pairs_FF = torch.corrcoef(z_FN).nan_to_num(0.0)
    rho = max(0.0, float((pairs_FF.sum() - pairs_FF.trace()) / (folds * (folds - 1))))
    deviation = ((1 + (folds - 1) * rho) / folds) ** 0.5
    return torch.from_numpy(norm.sf(z_FN.mean(0).numpy() / deviation))


def by_chance(count: int, samples: int, held: int, higher: int) -> float:
    """Return the probability that so many of `samples` clean samples, or more, score so high.

    So high: at most `higher` of `held` held-out clean samples score as high. It is the upper tail
    of a beta-binomial distribution, which takes into account that a few held-out samples know the
    tail of the scores badly.
    """
    from scipy.stats import betabinom

    return float(betabinom.sf(count - 1, samples, higher + 1, held - higher))


@dataclass(frozen=True)
class Cut:
    """Where a group of samples is cut: those with a p-value of at most `level` are flagged."""

    level: float
    flagged: int
    false_share: float
    """Estimated share of clean samples among the flagged ones."""
    chance: float
    """At most with this probability, a data set without poison has a group with so many."""


def cut_of(p_N: Tensor, held: int, fdr: float, significance: float, groups: int = 1) -> Cut | None:
    """Return where a group of samples is cut, or None if it has no more suspects than by chance.

    Of all levels j / (held + 1) up to FALSE_ALARMS (the first one, if all are larger) it is the
    highest at which (a) at most a share `fdr` of the flagged samples is expected to be
    clean (Benjamini and Hochberg 1995), and (b) a clean group would have so many with a probability
    of at most `significance`, divided by the number of levels and of `groups` (Bonferroni).
    """
    n = len(p_N)
    levels = max(1, int(FALSE_ALARMS * (held + 1)))
    found = None
    for rank in range(1, levels + 1):
        level = rank / (held + 1)
        # Levels are multiples of one number, and rounding must not decide about equal ones.
        count = int((p_N <= level + ROUNDING).sum())
        if not count or n * level / count > fdr:
            continue
        chance = by_chance(count, n, held, rank - 1) * levels * groups
        if chance <= significance:
            found = Cut(level, count, n * level / count, min(1.0, chance))
    return found


def flag(
    p_N: Tensor, group_N: Tensor, held: int, fdr: float, significance: float
) -> tuple[Tensor, dict[int, Cut]]:
    """Return a mask of the flagged samples, and where each group that has some is cut.

    Poison of one target class is a large share of that class and a small one of all samples: each
    class is a group of its own. Samples of all groups together are one more group (key -1), for
    poison that is spread over the classes.
    """
    labels = group_N.unique().tolist()
    members = {label: group_N == label for label in labels}
    members[-1] = torch.ones(len(p_N), dtype=torch.bool)
    flagged_N = torch.zeros(len(p_N), dtype=torch.bool)
    cuts = {}
    for label, member_N in members.items():
        cut = cut_of(p_N[member_N], held, fdr, significance, len(members))
        if cut is not None:
            cuts[label] = cut
            flagged_N |= member_N & (p_N <= cut.level + ROUNDING)
    return flagged_N, cuts
