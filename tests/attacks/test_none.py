"""No attack."""

from tests.attacks.making import make, poison_with, random_split


def test_no_attack_poisons_nothing() -> None:
    train = random_split()
    poisoned = poison_with(make("none"), train)
    assert poisoned.over(train) is train
    assert not poisoned.labels.counted(train.y_N).any()
