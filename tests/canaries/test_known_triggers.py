"""Known triggers over suspects: which rows they are planted into, and what these become."""

from collections.abc import Iterator

import pytest
import torch

from raybd.canaries.known_triggers import KnownTriggers
from raybd.types.data import POISON, Poisoned, Split
from raybd.types.errors import Infeasible
from raybd.types.methods import AttackInput

TRAIN = Split(
    torch.randint(0, 256, (400, 3, 16, 16), generator=torch.Generator().manual_seed(0)).byte(),
    torch.arange(400) % 5,
)
ALL = KnownTriggers(kinds=("patch", "blend", "sinusoid", "warp"), rate=0.05, among=300)


def planted(attack: KnownTriggers = ALL, train: Split = TRAIN, seed: int = 0) -> Poisoned:
    return attack.poison(AttackInput(train, 5), torch.Generator().manual_seed(seed))


def by_kind(found: Poisoned) -> Iterator[torch.Tensor]:
    for kind in range(4):
        yield (found.state["kind_M"] == kind).nonzero().flatten()


def test_each_kind_gets_its_share_and_a_label_of_its_own() -> None:
    found = planted()
    assert [len(rows) for rows in by_kind(found)] == [15] * 4
    labels = [found.y_M[rows].unique().tolist() for rows in by_kind(found)]
    assert all(len(one) == 1 for one in labels)
    assert len({one[0] for one in labels}) == 4
    assert (found.role_M == POISON).all()


def test_no_row_is_planted_twice_nor_behind_the_suspects() -> None:
    found = planted()
    assert len(found.index_M.unique()) == len(found.index_M)
    assert int(found.index_M.max()) < 300


def test_every_planted_image_changes_with_its_label() -> None:
    found = planted()
    changed = (found.x_MCHW != TRAIN.x_NCHW[found.index_M]).flatten(1).any(1)
    assert changed.all()
    assert (found.y_M != TRAIN.y_N[found.index_M]).all()


def test_what_stands_behind_the_suspects_changes_nothing() -> None:
    # The folds differ in their decoys, and plant alike all the same.
    other = Split(TRAIN.x_NCHW, torch.cat([TRAIN.y_N[:300], TRAIN.y_N[300:].flip(0)]))
    one, same = planted(), planted(train=other)
    assert torch.equal(one.index_M, same.index_M)
    assert torch.equal(one.x_MCHW, same.x_MCHW)
    assert not torch.equal(one.index_M, planted(seed=1).index_M)


def test_the_rows_are_known_from_the_labels_alone() -> None:
    rows = ALL.choose(TRAIN.y_N, 5, torch.Generator().manual_seed(0))
    assert torch.equal(rows, planted().index_M.sort().values)


def test_too_few_images_are_infeasible() -> None:
    few = Split(TRAIN.x_NCHW[:4], TRAIN.y_N[:4])
    with pytest.raises(Infeasible):
        planted(KnownTriggers(rate=0.01), few)


@pytest.mark.parametrize("kind", ["patch", "blend", "sinusoid", "warp"])
def test_a_faint_trigger_changes_the_same_images_by_less_than_a_strong_one(kind: str) -> None:
    smooth = torch.linspace(20, 230, 32).expand(400, 3, 32, 32).byte()
    found = {
        strength: planted(
            KnownTriggers.model_validate({"kinds": [kind], "strength": strength}),
            Split(smooth.clone(), TRAIN.y_N),
        )
        for strength in ("faint", None, "strong")
    }
    change = {
        strength: float((one.x_MCHW.float() - smooth[one.index_M].float()).abs().mean())
        for strength, one in found.items()
    }
    assert 0 < change["faint"] < 0.8 * change["strong"]
    assert change["faint"] <= change[None] <= change["strong"]
    for one in found.values():
        assert torch.equal(one.index_M, found[None].index_M)
        assert torch.equal(one.y_M, found[None].y_M)
