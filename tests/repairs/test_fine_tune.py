"""Fine-tuning on a real poisoned victim."""

import torch

from raybd.cells.victim_quality import measure
from raybd.repairs.fine_tune import FineTune
from tests.shared_victims import DIGITS, SharedVictims


def test_lowers_attack_success(shared: SharedVictims) -> None:
    trained = shared.classifier(DIGITS, {"kind": "badnets", "rate": 0.1})
    victim, dataset, poisoned = trained.victim, trained.dataset, trained.poisoned
    before = measure(victim, dataset, poisoned)
    weights = {name: value.clone() for name, value in victim.state_dict().items()}

    tuned = FineTune(epochs=30, lr=0.1, batch_size=32, augment="none").repair(
        victim, poisoned.over(dataset.train), dataset.clean, torch.Generator().manual_seed(0)
    )
    after = measure(tuned.victim, dataset, poisoned)
    assert before["attack_success"] is not None and after["attack_success"] is not None
    assert after["attack_success"] < before["attack_success"] - 0.5
    assert after["clean_accuracy"] is not None and after["clean_accuracy"] > 0.88
    assert all(torch.equal(victim.state_dict()[name], value) for name, value in weights.items())
    assert tuned.facts["clean_part_accuracy_before"] > 0.88
    assert tuned.facts["clean_part_accuracy_after"] > 0.88
