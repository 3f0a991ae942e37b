"""Faults in intervals, tests, ranks, label-free thresholds, and the combination of verdicts."""

from tests.mutants.fault import Fault

SHARES = "raybd/metrics/statistics/shares.py"
DELONG = "raybd/metrics/statistics/delong.py"
BOOTSTRAP = "raybd/metrics/statistics/bootstrap.py"
SEEDS = "raybd/metrics/statistics/seeds.py"
PAIRS = "raybd/metrics/statistics/pairs.py"
RANKS = "raybd/metrics/statistics/ranks.py"
CLIQUES = "raybd/metrics/statistics/cliques.py"
CELLS = "raybd/metrics/statistics/over_cells.py"
SHAPE = "raybd/metrics/shape_thresholds.py"
COMBINED = "raybd/cells/combined.py"
_SHARES = ("tests/metrics/statistics/test_shares_and_seeds.py",)
_AUROC = ("tests/metrics/statistics/test_auroc_intervals.py",)
_PAIRS = ("tests/metrics/statistics/test_pairs.py",)
_RANKS = ("tests/metrics/statistics/test_ranks.py",)
_CELLS = ("tests/metrics/statistics/test_over_cells.py",)
_SHAPE = ("tests/metrics/test_shape_thresholds.py",)
_COMBINED = ("tests/cells/test_combined.py",)

FAULTS = (
    Fault(
        "wilson-without-half",
        SHARES,
        "middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)",
        "middle = (share + z**2 / n) / (1 + z**2 / n)",
        "Wilson's interval is moved too far inward",
        _SHARES,
    ),
    Fault(
        "delong-clean-by-clean",
        DELONG,
        "wins_C.append(1 - above_C / len(poison))",
        "wins_C.append(1 - above_C / len(clean))",
        "wins of clean samples are divided by the number of clean ones",
        _AUROC,
    ),
    Fault(
        "delong-sum-of-covariance",
        DELONG,
        "covariance[1, 1] - 2 * covariance[0, 1])",
        "covariance[1, 1] + 2 * covariance[0, 1])",
        "what two scores share makes their difference less certain",
        _AUROC,
    ),
    Fault(
        "delong-not-on-logit",
        DELONG,
        "deviation = sqrt(float(covariance[0, 0])) / (auroc * (1 - auroc))",
        "deviation = sqrt(float(covariance[0, 0]))",
        "the deviation is not taken to the logit scale",
        _AUROC,
    ),
    Fault(
        "clusters-not-expanded",
        BOOTSTRAP,
        "end = float(norm.cdf(np.sqrt(clusters / free) * t.ppf((1 - level) / 2, free)))",
        "end = (1 - level) / 2",
        "the interval of few clusters is too narrow",
        _RANKS,
    ),
    Fault(
        "strata-forgotten",
        BOOTSTRAP,
        "strata = list(stratum_N) if stratum_N is not None else [0] * len(cluster_N)",
        "strata = [0] * len(cluster_N)",
        "clusters are drawn over all strata",
        _RANKS,
    ),
    Fault(
        "seeds-with-biased-deviation",
        SEEDS,
        "float(np.std(values, ddof=1)) / sqrt(n)",
        "float(np.std(values)) / sqrt(n)",
        "the deviation over seeds divides by n",
        _SHARES,
    ),
    Fault(
        "samples-forgotten",
        SEEDS,
        "variance = of_seeds + of_samples",
        "variance = of_seeds",
        "the test set has no part in the variance",
        _SHARES,
    ),
    Fault(
        "holm-not-monotone",
        PAIRS,
        "np.minimum(np.maximum.accumulate(scaled), 1.0)",
        "np.minimum(scaled, 1.0)",
        "a larger p may get a smaller adjusted value",
        _PAIRS,
    ),
    Fault(
        "ranks-upside-down",
        RANKS,
        "signed_PM = -value_PM if higher_is_better else value_PM",
        "signed_PM = value_PM if higher_is_better else -value_PM",
        "the best method has the last rank",
        _RANKS,
    ),
    Fault(
        "failed-is-best",
        RANKS,
        "np.where(failed_PM, np.inf, signed_PM)",
        "np.where(failed_PM, -np.inf, signed_PM)",
        "a method that failed is ranked first",
        _RANKS,
    ),
    Fault(
        "infeasible-counts",
        RANKS,
        "there_PM = (~np.isnan(value_PM) | failed_PM) & ~infeasible_PM",
        "there_PM = ~np.isnan(value_PM) | failed_PM | infeasible_PM",
        "a problem counts on which a method is infeasible",
        _RANKS,
    ),
    Fault(
        "nemenyi-q-not-divided",
        CLIQUES,
        "methods, np.inf)) / sqrt(2)",
        "methods, np.inf))",
        "the studentized range is not divided by the root of 2",
        _RANKS,
    ),
    Fault(
        "clique-without-holm",
        CLIQUES,
        "zip(pairs, adjusted, strict=True) if p > alpha}",
        "zip(pairs, adjusted, strict=True) if p <= alpha}",
        "a clique holds what differs",
        _RANKS,
    ),
    Fault(
        "most-samples-of-all-seeds",
        CELLS,
        "return min(int(row.get(measure.among) or 0) for row in rows)",
        "return max(int(row.get(measure.among) or 0) for row in rows)",
        "a share has the interval of the largest test set",
        _CELLS,
    ),
    Fault(
        "local-rate-inverted",
        SHAPE,
        "found_G = above_G & (log_null_G - density_G <= math.log(most))",
        "found_G = above_G & (log_null_G - density_G <= -math.log(most))",
        "the local rate may be 5 and not .2",
        _SHAPE,
    ),
    Fault(
        "gap-not-scaled",
        SHAPE,
        "gaps = (descending[:tail] - descending[1 : tail + 1]) * np.arange(1, tail + 1)",
        "gaps = descending[:tail] - descending[1 : tail + 1]",
        "gaps of the far tail look long",
        _SHAPE,
    ),
    Fault(
        "excess-with-all-clean",
        SHAPE,
        "hits = np.clip(above - (1 - share) * clean, 0, None)",
        "hits = above",
        "false alarms count as hits",
        _SHAPE,
    ),
    Fault(
        "chance-without-bonferroni",
        SHAPE,
        "return min(1.0, len(ranks) * min(found)) if found else 1.0",
        "return min(1.0, min(found)) if found else 1.0",
        "the least likely of many counts is taken for the only one",
        _SHAPE,
    ),
    Fault(
        "combined-rank-off-by-one",
        COMBINED,
        "float(descending_M[rank - 1])",
        "float(descending_M[rank])",
        "the threshold of a class is a held-out score too low",
        _COMBINED,
    ),
    Fault(
        "combined-one-is-enough",
        COMBINED,
        "calibrated = len(held) == len(verdicts) and",
        "calibrated = len(held) > 0 and",
        "p-values are given where a verdict has no held-out scores",
        _COMBINED,
    ),
    Fault(
        "combined-infinite",
        COMBINED,
        "threshold_N[member_N].clamp(max=",
        "threshold_N[member_N].clamp(min=",
        "nothing is ever flagged by p-values",
        _COMBINED,
    ),
    Fault(
        "combined-first-alone",
        COMBINED,
        'torch.stack([one.tensors["score_N"] for one in verdicts])',
        'torch.stack([verdicts[0].tensors["score_N"] for one in verdicts])',
        "the first detector alone is ranked",
        _COMBINED,
    ),
)
