"""BadNets: golden values."""

import pytest
import torch

from raybd.attacks.data.badnets import BadNets


def test_stamps_a_white_square_and_nothing_else() -> None:
    x = torch.zeros((1, 1, 4, 4), dtype=torch.uint8)
    white = BadNets(size=2).stamp(x, {})
    assert white[0, 0].tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 255, 255], [0, 0, 255, 255]]
    inside = BadNets(size=2, margin=1).stamp(x, {})
    assert inside[0, 0].tolist() == [[0, 0, 0, 0], [0, 255, 255, 0], [0, 255, 255, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize(
    ("height", "width", "size", "margin"),
    [(32, 32, 3, 1), (16, 16, 3, 1), (64, 64, 6, 2), (224, 224, 21, 7), (64, 96, 6, 2)],
)
def test_its_square_grows_with_the_image_if_asked(
    height: int, width: int, size: int, margin: int
) -> None:
    x = torch.zeros((1, 1, height, width), dtype=torch.uint8)
    grown = BadNets(size=3, margin=1, drawn_for=32)
    plain = BadNets(size=size, margin=margin)
    assert torch.equal(grown.stamp(x, {}), plain.stamp(x, {}))
    assert int((BadNets(size=3, margin=1).stamp(x, {}) == 255).sum()) == 9
    assert grown.does_not_fit(height, width) is None


def test_a_square_that_grows_beyond_the_image_does_not_fit() -> None:
    assert BadNets(size=20, drawn_for=16).does_not_fit(32, 32) is not None
    assert BadNets(size=20).does_not_fit(32, 32) is None


def test_a_field_that_is_unset_is_no_part_of_a_key() -> None:
    assert "drawn_for" not in BadNets().model_dump(mode="json")
    assert BadNets(drawn_for=32).model_dump(mode="json")["drawn_for"] == 32
