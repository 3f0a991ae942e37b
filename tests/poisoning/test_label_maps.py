"""Label maps: golden values, and what they refuse."""

import pytest
import torch

from raybd.poisoning.label_maps import (
    AllToAll,
    AllToOne,
    CleanLabel,
    CleanSourceToTarget,
    EveryOther,
    NoTarget,
    OthersKeepLabel,
    SourceToTarget,
)
from raybd.types.errors import Infeasible

Y = torch.tensor([0, 1, 2, 9])


def test_all_to_one() -> None:
    assert AllToOne(target=2).relabel(Y, 10).tolist() == [2, 2, 2, 2]
    assert AllToOne(target=2).counted(Y).tolist() == [True, True, False, True]
    assert AllToOne(target=2, exclude_target=True).eligible(Y).tolist() == [True, True, False, True]
    with pytest.raises(Infeasible, match="class 10 does not exist: there are 10 classes"):
        AllToOne(target=10).relabel(Y, 10)


def test_all_to_all() -> None:
    assert AllToAll().relabel(Y, 10).tolist() == [1, 2, 3, 0]
    assert AllToAll().counted(Y).all()


def test_clean_label() -> None:
    assert CleanLabel(target=1).relabel(Y, 10).tolist() == Y.tolist()
    assert CleanLabel(target=1).wanted(Y, 10).tolist() == [1, 1, 1, 1]
    assert CleanLabel(target=1).eligible(Y).tolist() == [False, True, False, False]


def test_source_to_target() -> None:
    labels = SourceToTarget(source=9, target=1)
    assert labels.wanted(Y, 10).tolist() == [1, 1, 1, 1]
    assert labels.eligible(Y).tolist() == [False, False, False, True]
    assert labels.counted(Y).tolist() == [False, False, False, True]
    with pytest.raises(Infeasible, match="class 9 does not exist"):
        labels.relabel(Y, 9)


def test_clean_source_to_target() -> None:
    labels = CleanSourceToTarget(source=9, target=1)
    assert labels.relabel(Y, 10).tolist() == Y.tolist()
    assert labels.wanted(Y, 10).tolist() == [1, 1, 1, 1]
    assert labels.eligible(Y).tolist() == [False, True, False, False]
    assert labels.counted(Y).tolist() == [False, False, False, True]
    with pytest.raises(Infeasible, match="same class"):
        CleanSourceToTarget(source=1, target=1).relabel(Y, 10)
    with pytest.raises(Infeasible, match="class 9 does not exist"):
        labels.relabel(Y, 9)


def test_others_keep_label() -> None:
    labels = OthersKeepLabel(target=1)
    assert labels.relabel(Y, 10).tolist() == Y.tolist()
    assert labels.wanted(Y, 10).tolist() == [1, 1, 1, 1]
    assert labels.eligible(Y).tolist() == [True, False, True, True]
    assert labels.counted(Y).tolist() == [True, False, True, True]


def test_every_other() -> None:
    assert EveryOther().wanted(torch.tensor([0, 0, 1, 2]), 3).tolist() == [1, 2, 2, 1]
    some = EveryOther(targets=(3, 5))
    assert some.wanted(torch.tensor([3, 3, 5, 5, 0, 0]), 10).tolist() == [5, 5, 3, 3, 3, 5]


def test_every_other_asks_for_no_image_s_own_class_and_for_the_others_about_equally_often() -> None:
    y = torch.randint(0, 7, (700,), generator=torch.Generator().manual_seed(0))
    wanted = EveryOther().wanted(y, 7)
    assert (wanted != y).all()
    pairs = torch.zeros(7, 7)
    pairs.index_put_((y, wanted), torch.ones(700), accumulate=True)
    assert (pairs.diagonal() == 0).all()
    share = pairs / pairs.sum(1, keepdim=True)
    assert share[~torch.eye(7, dtype=torch.bool)].min() > 0.05  # 1/6 on average


@pytest.mark.parametrize(
    ("targets", "why"),
    [((3,), "two or more"), ((1, 1), "two or more"), ((0, 10), "class 10 does not exist")],
)
def test_every_other_refuses_targets_that_are_too_few_or_unknown(
    targets: tuple[int, ...], why: str
) -> None:
    with pytest.raises(Infeasible, match=why):
        EveryOther(targets=targets).relabel(Y, 10)


def test_no_target_changes_and_counts_nothing() -> None:
    assert NoTarget().relabel(Y, 10).tolist() == Y.tolist()
    assert not NoTarget().counted(Y).any()
    assert NoTarget().eligible(Y).all()


def test_random_turns_reach_every_target_but_the_own_class() -> None:
    labels = EveryOther()
    assert labels.relabel(torch.tensor([0, 0, 1, 2]), 3).tolist() == [1, 2, 2, 1]
    y_N = torch.arange(3).repeat(100)
    turn_N = torch.randint(2**31, (300,), generator=torch.Generator().manual_seed(0))
    found = labels.at_turns(y_N, turn_N, 3)
    assert not (found == y_N).any()
    counts = torch.stack([found[y_N == own].bincount(minlength=3) for own in range(3)])
    assert torch.equal(counts.diagonal(), torch.zeros(3, dtype=torch.int64))
    assert int((counts + 100 * torch.eye(3)).min()) >= 30
