"""Attacks: the contract that every one keeps, and hand-computed triggers."""

import pickle
import re
import sys
from typing import cast

import numpy as np
import pytest
import torch
from scipy.fft import dctn

from raybd.attacks import ctrl
from raybd.attacks._poisoning import AllToAll, AllToOne, CleanLabel, to_pixels
from raybd.attacks.badnets import BadNets
from raybd.attacks.blended import Blended
from raybd.attacks.ctrl import Ctrl
from raybd.attacks.none import Nothing
from raybd.attacks.sig import Sig
from raybd.attacks.tact import TaCT
from raybd.experiment import random_stream
from raybd.registry import method_class, names
from raybd.types import CROSS, POISON, Attack, Infeasible, Split

KINDS = names("attacks")
ACTIVE = tuple(kind for kind in KINDS if kind != "none")


def make(kind: str, **fields: object) -> Attack:
    return cast(Attack, method_class("attacks", kind).model_validate(fields))


@pytest.fixture(scope="module")
def train() -> Split:
    rng = torch.Generator().manual_seed(0)
    return Split(
        torch.randint(0, 256, (400, 3, 32, 32), generator=rng, dtype=torch.uint8), torch.arange(400, dtype=torch.int64) % 10
    )


@pytest.mark.parametrize("kind", KINDS)
def test_leaves_the_clean_split_alone(kind: str, train: Split) -> None:
    x, y = train.x_NCHW.clone(), train.y_N.clone()
    make(kind).poison(train, 10, random_stream("poison", 0)).over(train)
    assert torch.equal(train.x_NCHW, x)
    assert torch.equal(train.y_N, y)


@pytest.mark.parametrize("kind", KINDS)
def test_changes_exactly_the_images_that_it_marks(kind: str, train: Split) -> None:
    poisoned = make(kind).poison(train, 10, random_stream("poison", 0))
    changed_N = (poisoned.over(train).x_NCHW != train.x_NCHW).flatten(1).any(1)
    assert torch.equal(changed_N, poisoned.role_N(len(train)) > 0)


@pytest.mark.parametrize("kind", ACTIVE)
@pytest.mark.parametrize("rate", [0.02, 0.1])
def test_poisons_the_promised_share(kind: str, rate: float, train: Split) -> None:
    poisoned = make(kind, rate=rate).poison(train, 10, random_stream("poison", 0))
    assert int((poisoned.role_M == POISON).sum()) == round(rate * len(train))
    assert len(poisoned.index_M.unique()) == len(poisoned.index_M)


@pytest.mark.parametrize("kind", ACTIVE)
def test_the_seed_decides_the_poison(kind: str, train: Split) -> None:
    first, again, other = (make(kind).poison(train, 10, random_stream("poison", seed)) for seed in (0, 0, 1))
    assert torch.equal(first.index_M, again.index_M)
    assert torch.equal(first.x_MCHW, again.x_MCHW)
    assert not torch.equal(first.index_M, other.index_M)


@pytest.mark.parametrize("kind", ACTIVE)
def test_the_plan_draws_the_same_rows_as_the_attack(kind: str, train: Split) -> None:
    attack = make(kind)
    chosen = attack.choose(train.y_N, 10, random_stream("poison", 3))
    poisoned = attack.poison(train, 10, random_stream("poison", 3))
    assert torch.equal(chosen, poisoned.index_M[poisoned.role_M == POISON])


@pytest.mark.parametrize("kind", ACTIVE)
def test_the_trigger_is_visible_after_rounding_and_never_wraps_around(kind: str, train: Split) -> None:
    poisoned = make(kind).poison(train, 10, random_stream("poison", 0))
    for value in (0, 255):
        flat = torch.full((4, 3, 32, 32), value, dtype=torch.uint8)
        change = poisoned.trigger(flat).int() - value
        # From black an image can only get brighter, from white only darker: a wrapped sum would do both.
        assert change.min() >= 0 if value == 0 else change.max() <= 0
    triggered = poisoned.trigger(train.x_NCHW[:8])
    assert triggered.dtype == torch.uint8
    assert (triggered != train.x_NCHW[:8]).flatten(1).any(1).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_trigger_is_the_same_after_pickling_and_from_stored_state(kind: str, train: Split) -> None:
    attack = make(kind)
    poisoned = attack.poison(train, 10, random_stream("poison", 0))
    x = train.x_NCHW[:8]
    assert torch.equal(pickle.loads(pickle.dumps(poisoned)).trigger(x), poisoned.trigger(x))
    assert torch.equal(attack.stamp(x, poisoned.state), poisoned.trigger(x))


@pytest.mark.parametrize("kind", KINDS)
def test_cites_its_paper_and_survives_a_round_trip(kind: str) -> None:
    attack_class = method_class("attacks", kind)
    doc = sys.modules[attack_class.__module__].__doc__ or ""
    assert kind == "none" or re.search(r"arXiv \d{4}\.\d{5}.*section", doc, re.S)
    attack = attack_class()
    assert attack_class.model_validate_json(attack.model_dump_json()) == attack
    assert all(info.description for info in attack_class.model_fields.values())


def test_badnets_stamps_a_white_square_and_nothing_else() -> None:
    x = torch.zeros((1, 1, 4, 4), dtype=torch.uint8)
    white = BadNets(size=2).stamp(x, {})
    assert white[0, 0].tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 255, 255], [0, 0, 255, 255]]
    inside = BadNets(size=2, margin=1).stamp(x, {})
    assert inside[0, 0].tolist() == [[0, 0, 0, 0], [0, 255, 255, 0], [0, 255, 255, 0], [0, 0, 0, 0]]


def test_blended_mixes_by_its_weight() -> None:
    x = torch.tensor([0, 100, 255, 255], dtype=torch.uint8).view(1, 1, 2, 2)
    pattern = torch.tensor([255, 0, 255, 0], dtype=torch.uint8).view(1, 2, 2)
    assert Blended(alpha=0.2).stamp(x, {"pattern_CHW": pattern}).flatten().tolist() == [51, 80, 255, 204]


def test_sig_has_its_periods_along_the_columns_and_vanishes_without_amplitude() -> None:
    gray = torch.full((1, 3, 8, 32), 128, dtype=torch.uint8)
    assert torch.equal(Sig(delta=0).stamp(gray, {}), gray)
    row = Sig(delta=40, frequency=4).stamp(gray, {})[0, 0, 0].float() - 128
    spectrum = torch.fft.rfft(row).abs()
    assert int(spectrum.argmax()) == 4
    assert row.max() == 40
    assert torch.equal(Sig().stamp(gray, {})[0, 0, 0], Sig().stamp(gray, {})[0, 2, 7])


def test_tact_poisons_its_source_class_and_covers_others(train: Split) -> None:
    attack = TaCT(rate=0.05, cover_rate=0.1)
    poisoned = attack.poison(train, 10, random_stream("poison", 0))
    poison, covers = (poisoned.index_M[poisoned.role_M == role] for role in (POISON, CROSS))
    assert (train.y_N[poison] == 1).all()
    assert (poisoned.over(train).y_N[poison] == 0).all()
    assert set(train.y_N[covers].tolist()) == set(range(2, 10))
    assert torch.equal(poisoned.over(train).y_N[covers], train.y_N[covers])
    assert torch.equal(poisoned.labels.counted(train.y_N), train.y_N == 1)


def test_ctrl_changes_two_coefficients_of_the_chroma_by_its_magnitude() -> None:
    gray = torch.full((1, 3, 32, 32), 128, dtype=torch.uint8)
    change_CHW = (Ctrl(magnitude=100).stamp(gray, {})[0].double() - 128).numpy()
    yuv = np.einsum("ij,jhw->ihw", ctrl._TO_YUV.double().numpy(), change_CHW)
    spectrum = dctn(yuv, axes=(1, 2), norm="ortho")
    expected = np.zeros_like(spectrum)
    expected[1:, 15, 15] = expected[1:, 31, 31] = 100
    assert spectrum == pytest.approx(expected, abs=2.5)  # rounding to whole pixel values


def test_pixels_are_clipped_then_rounded_then_cast() -> None:
    assert to_pixels(torch.tensor([-3.0, 0.5, 1.5, 254.6, 300.0])).tolist() == [0, 0, 2, 255, 255]


def test_label_maps() -> None:
    y = torch.tensor([0, 1, 2, 9])
    assert AllToOne(target=2).relabel(y, 10).tolist() == [2, 2, 2, 2]
    assert AllToOne(target=2).counted(y).tolist() == [True, True, False, True]
    assert AllToOne(target=2, exclude_target=True).eligible(y).tolist() == [True, True, False, True]
    assert AllToAll().relabel(y, 10).tolist() == [1, 2, 3, 0]
    assert AllToAll().counted(y).all()
    assert CleanLabel(target=1).relabel(y, 10).tolist() == y.tolist()
    assert CleanLabel(target=1).wanted(y, 10).tolist() == [1, 1, 1, 1]
    assert CleanLabel(target=1).eligible(y).tolist() == [False, True, False, False]


def test_all_to_all_moves_every_poisoned_label_by_one(train: Split) -> None:
    poisoned = BadNets(labels=AllToAll()).poison(train, 10, random_stream("poison", 0))
    assert torch.equal(poisoned.y_M, (train.y_N[poisoned.index_M] + 1) % 10)


def test_clean_label_poison_lies_in_the_target_class_and_keeps_its_label(train: Split) -> None:
    poisoned = Sig(rate=0.05, labels=CleanLabel(target=3)).poison(train, 10, random_stream("poison", 0))
    assert (train.y_N[poisoned.index_M] == 3).all()
    assert (poisoned.y_M == 3).all()


@pytest.mark.parametrize(
    ("attack", "why"),
    [
        (Sig(rate=0.2), "only 40"),
        (BadNets(rate=0.001), "not even one image"),
        (BadNets(labels=AllToOne(target=10)), "there are 10 classes"),
    ],
)
def test_what_can_not_be_built_is_infeasible(attack: Attack, why: str, train: Split) -> None:
    with pytest.raises(Infeasible, match=why):
        attack.choose(train.y_N, 10, random_stream("poison", 0))


def test_no_attack_poisons_nothing(train: Split) -> None:
    poisoned = Nothing().poison(train, 10, random_stream("poison", 0))
    assert poisoned.over(train) is train
    assert not poisoned.labels.counted(train.y_N).any()
