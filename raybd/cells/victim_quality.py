"""How a victim does on the test images, clean and with the trigger."""

from dataclasses import dataclass

import pyarrow as pa
import torch
from torch import Tensor

from raybd.cells.answers import answers
from raybd.metrics import classification
from raybd.training import inference
from raybd.types.data import Dataset, Poisoned
from raybd.types.errors import UserError
from raybd.types.models import Victim

NO_ANSWER = -1
"""The class that a refused input is given: it is never right and never what the attacker wants."""


@dataclass(frozen=True)
class Measured:
    """How a victim does, and what it says of each test image."""

    facts: dict[str, float | None]
    predictions: pa.Table
    """Rows of the predictions table, with all columns."""


def measure(
    victim: Victim, dataset: Dataset, poisoned: Poisoned, refused_N: Tensor | None = None
) -> dict[str, float | None]:
    """Return the numbers of `measured`."""
    return measured(victim, dataset, poisoned, refused_N).facts


def measured(
    victim: Victim, dataset: Dataset, poisoned: Poisoned, refused_N: Tensor | None = None
) -> Measured:
    """Measure clean accuracy, attack success, robust accuracy, and count their images.

    Clean accuracy is that on all test images; the others are those on the test images that count,
    with the trigger. `refused_N` is a mask over all test images followed by those with the trigger.
    A refused input gets no answer: that is never right, and never a success of the attack. Then the
    accuracy on the inputs that were kept is measured, too.
    """
    if victim.head is None:
        raise UserError(
            "the victim is an encoder without a head, so it predicts nothing",
            "Make it the encoder of a probe: "
            "{kind: linear_probe, network: ..., encoder: {trainer: {kind: simclr}}}.",
            exit_code=1,
        )
    test = dataset.test
    n = len(test)
    facts: dict[str, float | None] = {}

    logits_NK = inference.infer(victim, test.x_NCHW)
    clean_N = classification.predictions(logits_NK)
    first_N = None if refused_N is None else refused_N[:n]
    rows = answers("test_clean", torch.arange(n), test.y_N, logits_NK, refused_N=first_N)
    if refused_N is not None:
        kept_N = ~refused_N[:n]
        # Before the refused ones are overwritten below.
        facts["accuracy_on_kept"] = (
            classification.clean_accuracy(clean_N[kept_N], test.y_N[kept_N])
            if kept_N.any()
            else None
        )
        clean_N[refused_N[:n]] = NO_ANSWER
    facts["clean_accuracy"] = classification.clean_accuracy(clean_N, test.y_N)

    facts["test_n"] = n

    counted_N = poisoned.counted(test)
    facts["counted_n"] = int(counted_N.sum())
    # A mean over no image is no number.
    if not counted_N.any():
        return Measured({**facts, "attack_success": None, "robust_accuracy": None}, rows)

    counted = test.select(counted_N)
    x_MCHW = poisoned.with_trigger(counted.x_NCHW, counted.y_N, dataset.num_classes)
    logits_MK = inference.infer(victim, x_MCHW)
    triggered_M = classification.predictions(logits_MK)
    if refused_N is not None:
        triggered_M[refused_N[n:]] = NO_ANSWER

    wanted_M = poisoned.labels.wanted(counted.y_N, dataset.num_classes)
    others_M = None if refused_N is None else refused_N[n:]
    index_M = counted_N.nonzero().flatten()
    worn = answers("test_triggered", index_M, counted.y_N, logits_MK, wanted_M, others_M)
    facts |= {
        "attack_success": classification.attack_success(triggered_M, wanted_M),
        "robust_accuracy": classification.robust_accuracy(triggered_M, counted.y_N),
    }
    return Measured(facts, pa.concat_tables([rows, worn]))
