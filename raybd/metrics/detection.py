"""How well scores and flags find poison. A number that is not defined is None, never -1.

The definitions are scikit-learn's. Poison is the positive class; cross samples are negatives.
"""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from raybd.types.data import POISON


def detection(score_N: Tensor, flagged_N: Tensor, role_N: Tensor) -> dict[str, float | None]:
    """Return AUROC, average precision, TPR, FPR, F1, and TPR at 1 % and 5 % FPR.

    Without any poison only the FPR is defined. With poison and nothing flagged, TPR, FPR and F1
    are 0.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    positive = role_N.numpy() == POISON
    score = score_N.double().numpy()
    flagged = flagged_N.numpy().astype(bool)
    poison = int(positive.sum())
    clean = int((~positive).sum())
    hits = int((flagged & positive).sum())
    alarms = int((flagged & ~positive).sum())
    ranked = bool(poison and clean)
    return {
        "auroc": float(roc_auc_score(positive, score)) if ranked else None,
        "average_precision": float(average_precision_score(positive, score)) if ranked else None,
        "tpr": hits / poison if poison else None,
        "fpr": alarms / clean if clean else None,
        "f1": 2 * hits / (hits + alarms + poison) if poison else None,
        "tpr_at_fpr_1": tpr_at_fpr(score, positive, 0.01) if ranked else None,
        "tpr_at_fpr_5": tpr_at_fpr(score, positive, 0.05) if ranked else None,
    }


def tpr_at_fpr(score: NDArray[np.float64], positive: NDArray[np.bool_], rate: float) -> float:
    """Return the TPR at the lowest threshold that flags at most a share `rate` of clean samples.

    A sample is flagged if its score is above the threshold.
    """
    clean = np.sort(score[~positive])
    allowed = int(np.floor(rate * len(clean)))
    threshold = clean[len(clean) - 1 - allowed]
    return float((score[positive] > threshold).mean())
