"""Fine-tuning on a real poisoned victim."""

from functools import cache

import torch

from raybd.cells.victim_quality import measure
from raybd.networks.small_cnn import SmallCnn
from raybd.repairs._clean_accuracy import AFTER, BEFORE
from raybd.repairs.fine_tune import FineTune
from raybd.trainers.supervised import Supervised
from raybd.training.trusted import lost_accuracy, trusted_accuracy
from raybd.types.data import Split
from raybd.types.models import Victim
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


TRAINER = Supervised(epochs=8, lr=0.05, batch_size=32, augment="none", precision="fp32")
QUICK = FineTune(epochs=10, lr=0.05, batch_size=32, precision="fp32")


def stream(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sided(n: int, seed: int) -> Split:
    """Return noise that is brighter on the left (class 0) or on the right: a mirror swaps them."""
    x_NCHW = torch.randint(0, 160, (n, 3, 16, 16), generator=stream(seed))
    y_N = torch.arange(n) % 2
    for label, columns in enumerate((slice(0, 8), slice(8, 16))):
        x_NCHW[y_N == label, ..., columns] += 60
    return Split(x_NCHW.to(torch.uint8), y_N)


@cache
def sided_victim() -> Victim:
    return TRAINER.train(sided(300, 0), 2, SmallCnn(width=8), stream(0))


def tuned(repair: FineTune, clean: Split) -> tuple[float | None, str | None, float]:
    """Return accuracy on further images, warning, and accuracy that the repair itself found."""
    defended = repair.repair(sided_victim(), clean, clean, stream(1))
    accuracy = trusted_accuracy(defended.victim, sided(200, 2))
    return accuracy, defended.warning, defended.facts[AFTER]


def test_its_default_mirrors_no_images_that_the_victim_never_saw_mirrored() -> None:
    accuracy, warning, _ = tuned(QUICK.following(TRAINER), sided(300, 1))
    assert accuracy is not None and accuracy > 0.97
    assert warning is None


def test_it_warns_where_it_destroys_what_the_victim_could_do() -> None:
    accuracy, warning, _ = tuned(QUICK.model_copy(update={"augment": "flip"}), sided(300, 1))
    assert accuracy is not None and accuracy < 0.8
    assert "fine_tune: accuracy on 60 trusted images is 0." in str(warning)
    assert "before it" in str(warning)


def test_the_held_images_are_not_trained_on() -> None:
    """Labels without a rule can be learned by heart, and so tell what was trained on."""
    clean = Split(sided(200, 1).x_NCHW, torch.randint(0, 2, (200,), generator=stream(5)))
    repair = QUICK.model_copy(update={"augment": "none", "epochs": 60, "weight_decay": 0.0})
    assert tuned(repair, clean)[2] < 0.75
    assert tuned(repair.model_copy(update={"held": 0.0}), clean)[2] > 0.9


def test_accuracy_is_compared_before_and_after() -> None:
    facts = QUICK.repair(sided_victim(), sided(10, 1), sided(300, 1), stream(1)).facts
    assert facts[BEFORE] > 0.97


def test_a_loss_of_more_than_ten_points_is_a_warning() -> None:
    assert lost_accuracy("x", 0.9, 0.79, 100, "before it") is not None
    assert lost_accuracy("x", 0.9, 0.81, 100, "before it") is None
    assert lost_accuracy("x", 0.7, 0.9, 100, "before it") is None
    assert lost_accuracy("x", 0.9, 0.1, 49, "before it") is None
    assert lost_accuracy("x", None, 0.1, 100, "before it") is None
