"""Marksman: a trigger for each class, and none for an image's own."""

import pytest
import torch

from raybd.attacks.training.marksman import new_aimed, stored_aimed
from raybd.types.data import Split
from raybd.types.errors import Infeasible
from tests.attacks.making import make, poison, stream


def test_each_class_has_a_trigger_of_its_own_within_the_bound(train: Split) -> None:
    poisoned = poison("marksman", train, eps=12)
    x_NCHW = train.x_NCHW[:1].expand(10, -1, -1, -1)
    worn = poisoned.trigger(x_NCHW, torch.arange(10))
    assert len(worn.unique(dim=0)) == 10
    assert int((worn.int() - x_NCHW.int()).abs().max()) <= 12
    turned = poisoned.trigger(x_NCHW, torch.arange(9, -1, -1))
    # Rounding may differ by a level between places of a batch.
    assert (turned.flip(0).int() - worn.int()).abs().max() <= 1


def test_no_image_is_shown_with_its_own_class_and_all_classes_are_shown(train: Split) -> None:
    poisoned = poison("marksman", train, rate=0.5)
    assert not (poisoned.y_M == train.y_N[poisoned.index_M]).any()
    counts = poisoned.y_M.bincount(minlength=10)
    assert int(counts.min()) > 0


def test_the_stamp_without_a_wanted_class_asks_for_the_first_target(train: Split) -> None:
    fields = {"labels": {"map": "every_other", "targets": [3, 5]}}
    poisoned = poison("marksman", train)
    attack = make("marksman", **fields)
    x_NCHW = train.x_NCHW[:4]
    state = {**poisoned.state, "target_M": torch.tensor([3, 5])}
    asked = attack.stamp_toward(x_NCHW, torch.full((4,), 3), state)
    assert torch.equal(attack.stamp(x_NCHW, state), asked)


def test_a_generator_comes_back_from_its_state() -> None:
    network = new_aimed(4, 3, 20 * 14, stream()).eval()
    state = {f"generator.{name}": value for name, value in network.state_dict().items()}
    x_BCHW = torch.rand((3, 3, 20, 14), generator=stream()) * 255
    class_B = torch.arange(3)
    assert torch.equal(stored_aimed(4, state)(x_BCHW, class_B), network(x_BCHW, class_B))


def test_without_a_bound_there_is_no_trigger(train: Split) -> None:
    with pytest.raises(Infeasible, match="eps 0"):
        make("marksman", eps=0).choose(train.y_N, 10, stream())
