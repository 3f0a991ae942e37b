"""How a data set is divided: disjoint parts of exact size, as even as the labels allow."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from raybd.datasets.digits import Digits
from raybd.reading.images import Images
from raybd.reading.split import quotas
from raybd.types.data import Pool, Source
from raybd.types.errors import UserError
from tests.image_files import counts


class Synthetic(Images):
    """Any labels; each image is its row number."""

    train: tuple[int, ...]
    """Labels of the training part."""
    test: tuple[int, ...] = (0, 1, 2) * 10
    """Labels of the test part."""

    def source(self) -> Source:
        names = tuple(str(label) for label in range(1 + max(self.train + self.test)))
        return Source(names, torch.tensor(self.train), torch.tensor(self.test), _row_numbers, "")


def _row_numbers(pool: Pool, rows_M: Tensor) -> Tensor:
    return rows_M.view(-1, 1, 1, 1).expand(-1, 3, 2, 2).to(torch.uint8)


labels_of_many = st.lists(st.integers(0, 4), min_size=20, max_size=200).map(
    lambda y: (0, 1, 2, 3, 4, *y)
)


@settings(max_examples=60, deadline=None)
@given(train=labels_of_many, seed=st.integers(0, 5), data=st.data())
def test_parts_are_disjoint_exact_and_as_even_as_the_labels_allow(
    train: tuple[int, ...], seed: int, data: st.DataObject
) -> None:
    n = len(train)
    clean = data.draw(st.integers(1, n - 5))
    limit = data.draw(st.one_of(st.none(), st.integers(1, n)))
    config = Synthetic(train=train, clean=clean, limit=limit, split_seed=seed, test_limit=10)
    source = config.source()
    rows = {name: rows_M for name, (_, rows_M) in config.split(source).items()}

    assert len(rows["clean"]) == clean
    assert len(rows["train"]) == min(limit or n, n - clean)
    assert len(rows["test"]) == len(rows["test"].unique()) == 10
    both = torch.cat([rows["train"], rows["clean"]])
    assert len(both.unique()) == len(both)
    for name, available in (("clean", source.train_y_N), ("test", source.test_y_N)):
        y_N = (source.test_y_N if name == "test" else source.train_y_N)[rows[name]]
        given_K = torch.bincount(y_N, minlength=5)
        room_K = torch.bincount(available, minlength=5) - int(name == "clean")
        assert (given_K[given_K < room_K] >= given_K.max() - 1).all()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=8), st.data())
def test_quotas_add_up_and_a_short_class_gives_all_it_has(
    available: list[int], data: st.DataObject
) -> None:
    count = data.draw(st.integers(0, sum(available)))
    available_K = torch.tensor(available)
    quota_K = quotas(available_K, count, torch.arange(len(available)))
    assert int(quota_K.sum()) == count
    assert (quota_K <= available_K).all()
    assert (quota_K[quota_K < available_K] >= quota_K.max() - 1).all()


def test_the_remainder_goes_to_the_favoured_classes() -> None:
    assert quotas(torch.tensor([5, 5, 1, 5]), 9, torch.tensor([3, 2, 1, 0])).tolist() == [
        2,
        3,
        1,
        3,
    ]


def test_split_depends_on_the_seed_alone() -> None:
    def rows(seed: int) -> list[list[int]]:
        config = Synthetic(train=(0, 1, 2) * 30, clean=9, limit=30, test_limit=9, split_seed=seed)
        return [rows_M.tolist() for _, rows_M in config.split(config.source()).values()]

    assert rows(0) == rows(0)
    assert all(one != other for one, other in zip(rows(0), rows(1), strict=True))


def test_a_larger_limit_keeps_the_images_of_a_smaller_one() -> None:
    def train(limit: int) -> set[int]:
        config = Synthetic(train=(0, 1, 2) * 30, clean=9, limit=limit)
        return set(config.split(config.source())["train"][1].tolist())

    assert train(12) < train(31) < train(60)


def test_clean_comes_on_top_of_the_limit() -> None:
    config = Synthetic(train=(0, 1) * 50, clean=0.1, limit=40)
    parts = config.split(config.source())
    assert [len(parts[name][1]) for name in ("train", "clean")] == [40, 4]
    assert parts["clean"][0] == parts["train"][0] == "train"
    assert parts["test"][0] == "test"


def test_every_class_keeps_an_image_for_training() -> None:
    config = Synthetic(train=(0,) * 50 + (1,) * 3, test=(0, 1), clean=20)
    assert counts(config.load().clean.y_N) == [18, 2]
    assert counts(config.load().train.y_N) == [32, 1]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"limit": 91}, "limit: 91 of 90 training images"),
        ({"clean": 88}, "clean: 88 of 90 training images"),
        ({"test_limit": 31}, "test_limit: 31 of 30 test images"),
    ],
)
def test_more_images_than_there_are_is_an_error(fields: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Synthetic(train=(0, 1, 2) * 30, **fields).load()


@pytest.mark.parametrize(
    "fields", [{"clean": 0}, {"clean": 1.5}, {"limit": 0}, {"size": 0}, {"unknown": 1}]
)
def test_fields_have_bounds(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Digits(**fields)
