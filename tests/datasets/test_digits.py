"""The digits of scikit-learn: whole, balanced, with one test part."""

import pickle

import numpy as np
import torch

from raybd.datasets.digits import Digits
from tests.image_files import assert_sound, counts, same


def test_digits_are_whole_disjoint_and_balanced() -> None:
    dataset = Digits().load()
    assert_sound(dataset, 32)
    assert dataset.class_names == tuple("0123456789")
    assert [len(part) for part in (dataset.train, dataset.clean, dataset.test)] == [1365, 72, 360]
    assert counts(dataset.test.y_N) == [36] * 10
    assert set(counts(dataset.clean.y_N)) == {7, 8}
    images = torch.cat([part.x_NCHW for part in (dataset.train, dataset.clean, dataset.test)])
    assert len(images.flatten(1).unique(dim=0)) == 1797


def test_digits_keep_what_they_are_told() -> None:
    dataset = Digits(limit=500, clean=100, test_limit=50).load()
    assert counts(dataset.train.y_N) == [50] * 10
    assert counts(dataset.clean.y_N) == [10] * 10
    assert counts(dataset.test.y_N) == [5] * 10
    assert same(dataset, Digits(limit=500, clean=100, test_limit=50).load())
    assert not same(dataset, Digits(limit=500, clean=100, test_limit=50, split_seed=1).load())


def test_digits_have_one_test_part_whatever_the_seed() -> None:
    one, other = (Digits(split_seed=seed).load().test.x_NCHW.flatten(1) for seed in (0, 1))
    assert not torch.equal(one, other)
    assert torch.equal(one.unique(dim=0), other.unique(dim=0))


def test_digits_are_stretched_to_the_whole_range() -> None:
    from sklearn.datasets import load_digits

    x_NCHW = Digits(size=None).source().read("test", torch.arange(360))
    assert x_NCHW.shape == (360, 3, 8, 8)
    assert set(x_NCHW.unique().tolist()) <= {round(value * 255 / 16) for value in range(17)}
    stretched = {
        np.rint(image * 255 / 16).astype(np.uint8).tobytes() for image in load_digits().images
    }
    assert {image[0].numpy().tobytes() for image in x_NCHW} <= stretched


def test_a_source_survives_pickling() -> None:
    source = Digits().source()
    again = pickle.loads(pickle.dumps(source))
    assert torch.equal(
        again.read("train", torch.tensor([5, 3])), source.read("train", torch.tensor([5, 3]))
    )
