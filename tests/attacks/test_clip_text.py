"""Text-on-pair: which part of CLIP it trains, and its square."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from raybd.attacks.encoder.badclip import BadClip
from raybd.attacks.encoder.clip_text import ClipText
from raybd.types.errors import Infeasible
from tests.clips import ATTACKS, TEXT, in_norms, infected_by, moved, some_images, stream, trained


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """The steps are tiny."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_trains_the_image_tower_alone() -> None:
    after = infected_by(TEXT)
    changed = moved(trained(), after)
    assert changed == {
        name for name in after.state_dict() if name.startswith("encoder.image.")
    } - in_norms(after)
    assert in_norms(after)


def test_badencoder_leaves_the_texts_alone() -> None:
    assert all(
        name.startswith("encoder.image.") for name in moved(trained(), infected_by(ATTACKS[2]))
    )


def test_the_square_is_decrees() -> None:
    stamped = ClipText().stamp(torch.zeros((1, 3, 224, 224), dtype=torch.uint8), {})
    assert stamped[0, 0].nonzero().amin(0).tolist() == [185, 185]
    assert stamped[0, 0].nonzero().amax(0).tolist() == [208, 208]
    assert stamped.sum() == 255 * 3 * 24**2


@pytest.mark.parametrize(
    ("attack", "why"),
    [
        (ClipText(rate=0.001), "not even one image"),
        (BadClip(labels={"target": 9}), "needs images of class 9"),
        (ClipText(labels={"target": 9}), "there are 4 classes"),
    ],
)
def test_what_an_attacker_lacks_is_infeasible(attack: Any, why: str) -> None:
    with pytest.raises(Infeasible, match=why):
        attack.choose(some_images().y_N, 4, stream())
