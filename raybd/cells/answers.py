"""What a victim says of test images, as rows of the predictions table."""

import pyarrow as pa
import torch.nn.functional as F
from torch import Tensor

from raybd.results.schemas import PREDICTIONS

MAX_LOSS = 60_000.0
"""A loss beyond 65,504 is infinite in 16 bits."""


def answers(
    pool: str,
    index_N: Tensor,
    y_N: Tensor,
    logits_NK: Tensor,
    wanted_N: Tensor | None = None,
    refused_N: Tensor | None = None,
) -> pa.Table:
    """Return the rows of a pool of test images, from the logits of a victim.

    `index_N` are their rows in the test split, `y_N` their true labels, and `wanted_N` those that
    the attacker wants. Of a refused input only the truth is known.
    """
    # Not a softmax over all classes: three of them are kept.
    log_sum_N = logits_NK.logsumexp(1)
    loss_N = F.cross_entropy(logits_NK, y_N, reduction="none")
    predicted_N = logits_NK.argmax(1)
    refused = None if refused_N is None else refused_N.numpy()

    def column(values: Tensor, kind: pa.DataType, hidden: bool = True) -> pa.Array:
        return pa.array(values.numpy(), mask=refused if hidden else None).cast(kind)

    def probability(label_N: Tensor) -> pa.Array:
        log_N = logits_NK.gather(1, label_N[:, None])[:, 0] - log_sum_N
        # Rounding may put a certain answer above 1.
        return column(log_N.exp().clamp(max=1), pa.float16())

    words = pa.array([pool] * len(y_N), pa.string())
    no_label = pa.nulls(len(y_N), pa.uint32())
    arrays = {
        "pool": words.dictionary_encode(),
        "index": column(index_N, pa.uint32(), hidden=False),
        "true": column(y_N, pa.uint32(), hidden=False),
        "wanted": no_label if wanted_N is None else column(wanted_N, pa.uint32(), hidden=False),
        "pred": column(predicted_N, pa.uint32()),
        "p_pred": probability(predicted_N),
        "p_true": probability(y_N),
        "p_wanted": pa.nulls(len(y_N), pa.float16()) if wanted_N is None else probability(wanted_N),
        "loss": column(loss_N.clamp(0, MAX_LOSS), pa.float16()),
    }
    return pa.table(arrays, schema=PREDICTIONS.remove_metadata())
