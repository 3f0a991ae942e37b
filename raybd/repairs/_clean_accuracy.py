"""What a defender can measure about a repair: accuracy on the clean part that he trusts."""

from collections.abc import Mapping

from raybd.metrics.classification import clean_accuracy, predictions
from raybd.training.inference import logits
from raybd.training.trusted import lost_accuracy
from raybd.types.data import Split
from raybd.types.models import Victim

BEFORE = "clean_part_accuracy_before"
AFTER = "clean_part_accuracy_after"


def accuracy_facts(before: Victim, after: Victim, clean: Split) -> dict[str, float]:
    """Return the accuracy on the clean part before and after a repair, as facts.

    Empty for an encoder without a head, or without clean images.
    """
    if before.head is None or not len(clean):
        return {}
    found = {}
    for name, victim in ((BEFORE, before), (AFTER, after)):
        accuracy = clean_accuracy(predictions(logits(victim, clean)), clean.y_N)
        # None stands for no images, and there are some.
        assert accuracy is not None
        found[name] = accuracy
    return found


def lost(name: str, facts: Mapping[str, float], clean: Split) -> str | None:
    """Return a warning if a repair has lost more accuracy than is reasonable, from its facts."""
    before = facts.get(BEFORE)
    return lost_accuracy(name, before, facts.get(AFTER), len(clean), "before it")
