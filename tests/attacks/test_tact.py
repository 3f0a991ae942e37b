"""TaCT: its source class and its covers."""

import pytest
import torch

from raybd.attacks.data.tact import TaCT
from raybd.types.data import CROSS, POISON, Split
from raybd.types.errors import Infeasible
from tests.attacks.making import poison_with, stream


def test_poisons_its_source_class_and_covers_others(train: Split) -> None:
    poisoned = poison_with(TaCT(rate=0.05, cover_rate=0.1), train)
    poison, covers = (poisoned.index_M[poisoned.role_M == role] for role in (POISON, CROSS))
    assert (train.y_N[poison] == 1).all()
    assert (poisoned.over(train).y_N[poison] == 0).all()
    assert set(train.y_N[covers].tolist()) == set(range(2, 10))
    assert torch.equal(poisoned.over(train).y_N[covers], train.y_N[covers])
    assert torch.equal(poisoned.labels.counted(train.y_N), train.y_N == 1)


def test_a_source_class_that_is_the_target_is_infeasible_before_anything_runs(train: Split) -> None:
    attack = TaCT(rate=0.05, labels={"source": 3, "target": 3})
    with pytest.raises(Infeasible, match="source and target are the same class, 3"):
        attack.choose(train.y_N, 10, stream())
