"""BadNets with several targets: places, golden values, even use of the targets, behaviour."""

import pytest
import torch

from raybd.attacks.data.badnets_multi import BadNetsMulti, border_places, deal_targets
from raybd.datasets.digits import Digits
from raybd.networks.small_cnn import SmallCnn
from raybd.trainers.supervised import Supervised
from raybd.training.inference import infer
from raybd.types.data import Split
from raybd.types.errors import Infeasible
from raybd.types.methods import AttackInput
from tests.attacks.making import poison_with, stream


@pytest.mark.parametrize(("count", "side", "size"), [(3, 32, 3), (10, 32, 3), (8, 16, 3)])
def test_places_lie_along_the_border_and_do_not_overlap(count: int, side: int, size: int) -> None:
    covered = torch.zeros(side, side, dtype=torch.int64)
    places = border_places(count, side, side, size)
    for top, left in places:
        assert 0 in (top, left) or side - size in (top, left)
        covered[top : top + size, left : left + size] += 1
    assert covered.max() == 1
    assert covered.sum() == count * size**2
    assert places[0] == (side - size, side - size)


@pytest.mark.parametrize(("count", "side", "size"), [(9, 16, 3), (2, 4, 5), (2, 3, 3)])
def test_too_many_or_too_large_patches_are_infeasible(count: int, side: int, size: int) -> None:
    with pytest.raises(Infeasible, match="do not fit"):
        border_places(count, side, side, size)


def test_each_image_gets_the_patch_of_the_class_that_is_wanted() -> None:
    x = torch.zeros((3, 3, 5, 5), dtype=torch.uint8)
    state = {"target_M": torch.tensor([4, 7])}
    stamped = BadNetsMulti(size=1).stamp_toward(x, torch.tensor([7, 4, 7]), state)
    first = torch.zeros(5, 5)
    first[4, 4] = 255  # white, in the lower right corner
    second = torch.zeros(5, 5)
    second[0, 0] = 255  # red, in the corner on the other side
    assert torch.equal(stamped[1].float(), first.expand(3, 5, 5))
    for row in (0, 2):
        assert torch.equal(stamped[row, 0].float(), second)
        assert not stamped[row, 1:].any()


def test_targets_are_used_equally_often_and_no_image_keeps_its_class(train: Split) -> None:
    attack = BadNetsMulti(rate=0.2, labels={"targets": (0, 3, 4, 8)})
    poisoned = poison_with(attack, train)
    counts = torch.bincount(poisoned.y_M, minlength=10)
    assert counts.tolist() == [20, 0, 0, 20, 20, 0, 0, 0, 20, 0]
    assert (poisoned.y_M != train.y_N[poisoned.index_M]).all()
    assert torch.equal(
        poisoned.trigger(train.x_NCHW[poisoned.index_M], poisoned.y_M), poisoned.x_MCHW
    )


def test_where_all_images_are_of_one_target_class_the_others_share_them() -> None:
    assert deal_targets(torch.zeros(5, dtype=torch.int64), (0, 1), stream()).tolist() == [1] * 5


def test_a_victim_obeys_every_target() -> None:
    """Measured on seeds 0, 1 and 2: success 0.98 or more for each target, accuracy 0.96."""
    data = Digits(clean=0.1).load()
    attack = BadNetsMulti(rate=0.2, size=5)
    poisoned = attack.poison(AttackInput(data.train, 10), stream())
    trainer = Supervised(epochs=12, lr=0.05, augment="none", precision="fp32")
    victim = trainer.train(poisoned.over(data.train), 10, SmallCnn(width=16), stream())

    test = data.test
    wanted = poisoned.labels.wanted(test.y_N, 10)
    told = infer(victim, poisoned.trigger(test.x_NCHW, wanted)).argmax(1)
    for target in (0, 1, 2):
        assert (told[wanted == target] == target).float().mean() > 0.9
    assert (infer(victim, test.x_NCHW).argmax(1) == test.y_N).float().mean() > 0.9
