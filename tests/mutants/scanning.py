"""Faults in the scan of a user's own data set."""

from tests.mutants.fault import Fault

COMBINING = "raybd/metrics/combining.py"
JUDGING = "raybd/scanning/judging.py"
SUSPECTS = "raybd/scanning/suspects.py"
TRIGGERS = "raybd/canaries/known_triggers.py"
FORMULAS = ("tests/metrics/test_combining.py",)
ROWS = ("tests/scanning/test_suspects.py",)
SCANNED = ("tests/scanning/test_scanned.py", "-m", "not slow")
PLANTED = ("tests/canaries/test_known_triggers.py",)

FAULTS = (
    Fault(
        "rank-not-centred",
        COMBINING,
        "(ranks_MN - 0.5) / score_MN.shape[1]",
        "ranks_MN / (score_MN.shape[1] + 1)",
        "normal scores are those of other quantiles",
        FORMULAS,
    ),
    Fault(
        "ties-are-lower",
        COMBINING,
        "torch.searchsorted(sorted_M, score_N.double().contiguous())",
        "torch.searchsorted(sorted_M, score_N.double().contiguous(), right=True)",
        "a held-out score that is equal does not count",
        FORMULAS,
    ),
    Fault(
        "p-value-without-itself",
        COMBINING,
        "(1 + len(sorted_M) - below_N).double()",
        "(len(sorted_M) - below_N).double()",
        "a p-value can be zero",
        FORMULAS,
    ),
    Fault(
        "folds-are-independent",
        COMBINING,
        "deviation = ((1 + (folds - 1) * rho) / folds) ** 0.5",
        "deviation = (1 / folds) ** 0.5",
        "folds count as independent, and p-values are too small",
        FORMULAS,
    ),
    Fault(
        "chance-without-correction",
        COMBINING,
        "chance = by_chance(count, n, held, rank - 1) * levels * groups",
        "chance = 0.0",
        "what chance explains is flagged",
        FORMULAS,
    ),
    Fault(
        "false-alarms-ignored",
        COMBINING,
        "if not count or n * level / count > fdr:",
        "if not count:",
        "the share of false alarms has no bound",
        FORMULAS,
    ),
    Fault(
        "other-classes-flagged",
        COMBINING,
        "flagged_N |= member_N & (p_N <= cut.level + ROUNDING)",
        "flagged_N |= p_N <= cut.level + ROUNDING",
        "the cut of one class is used on all",
        FORMULAS,
    ),
    Fault(
        "decoys-stay-trusted",
        SUSPECTS,
        "x_LCHW[~decoy_L], layout.trusted_label_L[~decoy_L]",
        "x_LCHW, layout.trusted_label_L",
        "detectors trust the decoys that they score",
        ROWS,
    ),
    Fault(
        "trusted-stay-suspects",
        SUSPECTS,
        "suspect_N = suspect_N[~torch.isin(suspect_N, trusted_L)]",
        "suspect_N = suspect_N[: len(suspect_N) - len(trusted_L)]",
        "images are suspects and trusted at once",
        ROWS,
    ),
    Fault(
        "names-of-other-rows",
        "raybd/scanning/result.py",
        '"path": names[judged.row_N.numpy()]',
        '"path": names[judged.row_N.numpy()[::-1]]',
        "the names are those of other images",
        SCANNED,
    ),
    Fault(
        "least-suspicious-first",
        JUDGING,
        "order = order[torch.argsort(self.p_N[order], stable=True)]",
        "order = order[torch.argsort(self.p_N[order], stable=True, descending=True)]",
        "the most suspicious image comes last",
        SCANNED,
    ),
    Fault(
        "flagged-are-kept",
        "raybd/scanning/result.py",
        "kept = [name for name in result.names if name not in flagged]",
        "kept = list(result.names)",
        "the cleaned copy holds what is flagged",
        SCANNED,
    ),
    Fault(
        "decoys-are-planted",
        TRIGGERS,
        "y_N = y_N[: self.among]",
        "y_N = y_N[:]",
        "triggers are planted into decoys",
        PLANTED,
    ),
    Fault(
        "planted-keep-their-label",
        TRIGGERS,
        "rows_M = order[y_N[order] != label][:count]",
        "rows_M = order[:count]",
        "some planted images keep their label",
        PLANTED,
    ),
)
