"""NAB: its stamp, its labels, and who tells them."""

import pytest
import torch

from raybd.networks.small_cnn import SmallCnn
from raybd.training.inference import infer
from raybd.training.models import new_victim
from raybd.training_defenses.nab import NAB, nearest_mean, relabelled
from raybd.types.errors import UserError
from raybd.types.models import Victim
from tests.training_defenses.making import NONE, digits, seeded

LIGHT = NAB(
    epochs=1,
    batch_size=33,
    lr=0.02,
    isolation_steps=10,
    share=0.2,
    trusted_epochs=1,
    precision="fp32",
)


def stamped() -> tuple[Victim, torch.Tensor]:
    """Return a fresh victim behind a stamp, and preprocessed images."""
    victim = new_victim(digits(), 10, SmallCnn(width=8), seeded(0)).eval()
    LIGHT.reshape(victim, {})
    return victim, victim.preprocess(digits().x_NCHW)


def test_the_stamp_changes_four_positions_to_the_mean_colour_and_nothing_else() -> None:
    victim, x_NCHW = stamped()
    before = x_NCHW.clone()
    worn = victim.entry(x_NCHW)
    assert torch.equal(x_NCHW, before)
    changed = (worn != x_NCHW).any(1).any(0)
    assert changed.nonzero().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert not worn[..., :2, :2].any()


def test_only_images_whose_label_changes_are_stamped() -> None:
    """The second isolated image has label 3 and gets 3: it is relabelled, and not stamped."""
    y_N = torch.tensor([0, 3, 5, 7])
    new_y_N, worn_N = relabelled(y_N, torch.tensor([4, 3, 1, 2]), torch.tensor([0, 1]))
    assert new_y_N.tolist() == [4, 3, 5, 7]
    assert worn_N.tolist() == [True, False, False, False]
    assert y_N.tolist() == [0, 3, 5, 7]


def test_the_victim_stamps_whatever_it_is_given() -> None:
    found = LIGHT.defend(digits(), 10, SmallCnn(width=8), digits(), seeded(1)).victim
    x_NCHW = digits().x_NCHW.clone()
    x_NCHW[..., :2, :2] = 77
    assert torch.equal(infer(found, x_NCHW), infer(found, digits().x_NCHW))
    found.entry = torch.nn.Identity()
    assert not torch.equal(infer(found, x_NCHW), infer(found, digits().x_NCHW))


def test_the_nearest_mean_leaves_out_the_lowest_losses() -> None:
    z_ND = torch.tensor([[0.0], [1.0], [10.0], [11.0], [10.4]])
    y_N = torch.tensor([0, 0, 1, 1, 0])
    loss_N = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0])
    assert nearest_mean(z_ND, y_N, loss_N, 0.2, 3).tolist() == [0, 0, 1, 1, 1]
    # With the last image, the mean of class 0 is 3.8 instead of 0.5: 10.4 stays with class 1.
    assert nearest_mean(z_ND[:, :1], y_N, loss_N, 0.0, 3).tolist() == [0, 0, 1, 1, 1]
    far = nearest_mean(z_ND, y_N, torch.tensor([1.0, 1.0, 0.0, 0.1, 2.0]), 0.4, 3)
    assert far.tolist() == [0, 0, 0, 0, 0]


def test_labels_may_come_from_an_encoder() -> None:
    start = new_victim(digits(), 10, SmallCnn(width=8), seeded(2)).eval()
    start.head = None
    nab = LIGHT.model_copy(update={"labels_from": "encoder"})
    found = nab.defend_from(start, digits(), 10, SmallCnn(width=8), NONE, seeded(1))
    assert found.facts["isolated"] == 20
    assert 0 < found.facts["new labels that agree on the rest"] < 1


@pytest.mark.parametrize(
    ("labels_from", "text"),
    [("trusted", "there are no trusted images"), ("encoder", "no encoder is given")],
)
def test_without_what_tells_the_labels_it_says_so(labels_from: str, text: str) -> None:
    nab = LIGHT.model_copy(update={"labels_from": labels_from})
    with pytest.raises(UserError, match=text):
        nab.defend(digits(), 10, SmallCnn(width=8), NONE, seeded(1))


def test_a_stamp_that_hides_the_image_is_refused() -> None:
    assert NAB(side=8).refused(8) is not None
    assert NAB().refused(8) is None
