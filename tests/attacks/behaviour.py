"""What a victim of a few images learns of a trigger."""

from typing import Any

from raybd.cells.victim_quality import measure
from tests.shared_victims import SharedVictims

FEW_IMAGES = {"limit": 2000, "test_limit": 500}
"""So few that a victim is trained in seconds; its clean accuracy is low, but far from chance."""
RECIPE = {"epochs": 8, "lr": 0.1}


def learned(
    shared: SharedVictims, dataset: dict[str, Any], attack: dict[str, Any], **recipe: Any
) -> tuple[float, float]:
    """Return the attack success on a victim, and what the same trigger does to the clean twin."""
    few = {**dataset, **FEW_IMAGES}
    recipe = {**RECIPE, **recipe}
    trained = shared.classifier(few, attack, **recipe)
    assert trained.attack_success is not None
    # Far above chance: a victim that says the target class to everything has no backdoor.
    assert trained.clean_accuracy > 0.25

    twin = shared.classifier(few, {"kind": "none"}, **recipe).victim
    by_the_trigger_alone = measure(twin, trained.dataset, trained.poisoned)["attack_success"]
    assert by_the_trigger_alone is not None
    return trained.attack_success, by_the_trigger_alone
