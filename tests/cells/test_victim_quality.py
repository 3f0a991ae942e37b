"""Attack success and accuracy count the images that they should."""

import pytest

from raybd.attacks.data.badnets import BadNets
from raybd.cells.stage import random_stream
from raybd.cells.victim_quality import measure
from raybd.poisoning.label_maps import AllToAll, AllToOne
from tests.tiny_cells import by_hand, given


def test_attack_success_counts_only_images_whose_label_is_not_the_target() -> None:
    victim, dataset = by_hand()
    for target, success in ((0, 1.0), (1, 0.0)):
        attack = BadNets(size=1, rate=0.3, labels=AllToOne(target=target))
        poisoned = attack.poison(given(dataset), random_stream("poison", 0))
        found = measure(victim, dataset, poisoned)
        assert found == {
            "clean_accuracy": pytest.approx(0.8),
            "test_n": 10,
            "counted_n": 8 if target == 0 else 6,
            "attack_success": success,
            "robust_accuracy": 0.0 if target == 0 else pytest.approx(2 / 6),
        }


def test_all_to_all_is_measured_on_every_image() -> None:
    victim, dataset = by_hand()
    poisoned = BadNets(size=1, rate=0.3, labels=AllToAll()).poison(
        given(dataset), random_stream("poison", 0)
    )
    # Every image with the trigger is called class 0, and two are of class 3, which should be.
    assert measure(victim, dataset, poisoned)["attack_success"] == pytest.approx(0.2)
