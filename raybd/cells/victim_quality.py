"""A victim held against the test images, clean and with the trigger."""

from torch import Tensor

from raybd.metrics import classification
from raybd.training import inference
from raybd.types.data import Dataset, Poisoned
from raybd.types.errors import UserError
from raybd.types.models import Victim

_NO_ANSWER = -1


def measure(
    victim: Victim, dataset: Dataset, poisoned: Poisoned, refused_N: Tensor | None = None
) -> dict[str, float | None]:
    """Clean accuracy on all test images; attack success and robust accuracy on those that count, with the trigger.

    Refused inputs (a mask over all test images and, behind them, the triggered ones) get no answer: that is never right, and no
    success of the attack. How often the answers to clean images are right is said too, then.
    """
    if victim.head is None:
        raise UserError(
            "the victim is an encoder without a head, so it predicts nothing",
            "Make it the encoder of a probe: {kind: linear_probe, network: ..., encoder: {trainer: {kind: simclr}}}.",
            exit_code=1,
        )
    test, labels = dataset.test, poisoned.labels
    counted = labels.counted(test.y_N)
    true_y, n = test.y_N[counted], len(test)
    clean = classification.predictions(inference.infer(victim, test.x_NCHW))
    facts: dict[str, float | None] = {}
    if refused_N is not None:
        kept = ~refused_N[:n]
        facts["accuracy_on_kept"] = (
            classification.clean_accuracy(clean[kept], test.y_N[kept]) if kept.any() else None
        )
        clean[refused_N[:n]] = _NO_ANSWER
    facts["clean_accuracy"] = classification.clean_accuracy(clean, test.y_N)
    if not counted.any():
        return {**facts, "attack_success": None, "robust_accuracy": None}
    triggered = classification.predictions(
        inference.infer(victim, poisoned.trigger(test.x_NCHW[counted]))
    )
    if refused_N is not None:
        triggered[refused_N[n:]] = _NO_ANSWER
    wanted = labels.wanted(true_y, dataset.num_classes)
    return {
        **facts,
        "attack_success": classification.attack_success(triggered, wanted),
        "robust_accuracy": classification.robust_accuracy(triggered, true_y),
    }
