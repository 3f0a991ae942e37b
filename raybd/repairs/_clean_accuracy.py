"""What a defender can measure about a repair: accuracy on the clean part that he trusts."""

from raybd.metrics.classification import clean_accuracy, predictions
from raybd.training.inference import logits
from raybd.types.data import Split
from raybd.types.models import Victim


def accuracy_facts(before: Victim, after: Victim, clean: Split) -> dict[str, float]:
    """Return the accuracy on the clean part before and after a repair, as facts.

    Empty for an encoder without a head, or without clean images.
    """
    if before.head is None or not len(clean):
        return {}
    found = {}
    for name, victim in (("before", before), ("after", after)):
        accuracy = clean_accuracy(predictions(logits(victim, clean)), clean.y_N)
        # None stands for no images, and there are some.
        assert accuracy is not None
        found[f"clean_part_accuracy_{name}"] = accuracy
    return found
