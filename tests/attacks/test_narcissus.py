"""Narcissus: its noise."""

import torch

from raybd.poisoning.pixels import to_pixels
from raybd.training import inference
from raybd.types.data import Split
from tests.attacks.making import poison, triggered, twin


def test_keeps_its_noise_within_eps_and_amplifies_it_at_test_time(train: Split) -> None:
    poisoned = poison("narcissus", train, eps=4, steps=30)
    noise_CHW = poisoned.state["noise_CHW"]
    assert noise_CHW.abs().max() == 4
    assert (train.y_N[poisoned.index_M] == 0).all()
    assert torch.equal(poisoned.x_MCHW, to_pixels(train.x_NCHW[poisoned.index_M] + noise_CHW))
    gray = torch.full((1, 3, 16, 16), 128, dtype=torch.uint8)
    assert torch.equal(triggered(poisoned, gray)[0].float() - 128, 3 * noise_CHW)


def test_its_noise_makes_the_twin_believe_in_the_target(train: Split) -> None:
    noise_CHW = poison("narcissus", train, eps=4, steps=30).state["noise_CHW"]
    others = train.x_NCHW[train.y_N != 0]
    noisy = to_pixels(others + noise_CHW)
    belief, before = (
        inference.infer(twin(), x_NCHW).log_softmax(1)[:, 0].mean() for x_NCHW in (noisy, others)
    )
    assert belief > before
