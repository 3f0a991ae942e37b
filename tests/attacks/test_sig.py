"""SIG: the signal, and the clean label."""

import torch

from raybd.attacks.data.sig import Sig
from raybd.poisoning.label_maps import CleanLabel
from raybd.types.data import Split
from tests.attacks.making import poison_with


def test_has_its_periods_along_the_columns_and_vanishes_without_amplitude() -> None:
    gray = torch.full((1, 3, 8, 32), 128, dtype=torch.uint8)
    assert torch.equal(Sig(delta=0).stamp(gray, {}), gray)
    row = Sig(delta=40, frequency=4).stamp(gray, {})[0, 0, 0].float() - 128
    spectrum = torch.fft.rfft(row).abs()
    assert int(spectrum.argmax()) == 4
    assert row.max() == 40
    assert torch.equal(Sig().stamp(gray, {})[0, 0, 0], Sig().stamp(gray, {})[0, 2, 7])


def test_clean_label_poison_lies_in_the_target_class_and_keeps_its_label(train: Split) -> None:
    poisoned = poison_with(Sig(rate=0.05, labels=CleanLabel(target=3)), train)
    assert (train.y_N[poisoned.index_M] == 3).all()
    assert (poisoned.y_M == 3).all()
