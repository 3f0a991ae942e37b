"""The flags of a record, and what they leave out."""

import pytest
import torch

from raybd.reading.backdoorbench import Changed, roles_of, wanted_of
from raybd.types.data import CROSS, POISON
from raybd.types.errors import UserError


def _changed(given: list[int], true: list[int]) -> Changed:
    return Changed(torch.arange(len(given)), (), torch.tensor(given), torch.tensor(true))


@pytest.mark.parametrize(
    ("given", "true", "roles"),
    [
        # All to one: an image of the target class keeps its label, and is poison.
        ([0, 0, 0], [1, 2, 0], [POISON, POISON, POISON]),
        # Clean label: all keep theirs.
        ([3, 3], [3, 3], [POISON, POISON]),
        # WaNet marks its noise images, too: they keep labels that are not the target.
        ([0, 0, 4, 5], [1, 0, 4, 5], [POISON, POISON, CROSS, CROSS]),
        # All to all: no poisoned image keeps its label.
        ([2, 3, 0, 4], [1, 2, 9, 4], [POISON, POISON, POISON, CROSS]),
        ([], [], []),
    ],
)
def test_an_image_that_keeps_a_label_other_than_the_target_is_no_poison(
    given: list[int], true: list[int], roles: list[int]
) -> None:
    assert roles_of(_changed(given, true)).tolist() == roles


def test_the_wanted_labels_are_those_of_the_test_images() -> None:
    assert wanted_of(_changed([0, 0, 0], [1, 2, 1]), 4) == (0, 0, 0, 3)
    assert wanted_of(_changed([1, 2, 0], [0, 1, 2]), 3) == (1, 2, 0)
    with pytest.raises(UserError, match=r"class 1 are sent to the classes \[0, 2\]"):
        wanted_of(_changed([0, 2], [1, 1]), 4)
