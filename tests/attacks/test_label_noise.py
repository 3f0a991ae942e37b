"""Label noise: no label stays, and wrong labels are spread as promised."""

import torch

from raybd.attacks.data.label_noise import LabelNoise
from raybd.types.data import CROSS, Split
from tests.attacks.making import poison_with


def test_no_chosen_label_stays_and_no_image_changes(train: Split) -> None:
    poisoned = poison_with(LabelNoise(rate=0.5), train)
    after = poisoned.over(train)
    assert (poisoned.role_M == CROSS).all()
    assert (poisoned.y_M != train.y_N[poisoned.index_M]).all()
    assert int((after.y_N != train.y_N).sum()) == 200
    assert torch.equal(after.x_NCHW, train.x_NCHW)


def test_symmetric_noise_reaches_every_other_class_equally_often() -> None:
    train = Split(torch.zeros((9000, 3, 1, 1), dtype=torch.uint8), torch.arange(9000) % 10)
    poisoned = poison_with(LabelNoise(rate=1), train)
    pairs = torch.zeros(10, 10)
    pairs.index_put_((train.y_N[poisoned.index_M], poisoned.y_M), torch.ones(9000), accumulate=True)
    assert (pairs.diagonal() == 0).all()
    off_diagonal = pairs[~torch.eye(10, dtype=torch.bool)]
    deviation = (900 * 1 / 9 * 8 / 9) ** 0.5
    assert (off_diagonal - 100).abs().max() < 4 * deviation


def test_next_noise_moves_labels_by_one(train: Split) -> None:
    poisoned = poison_with(LabelNoise(noise="next"), train)
    assert torch.equal(poisoned.y_M, (train.y_N[poisoned.index_M] + 1) % 10)
