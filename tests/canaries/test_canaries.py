"""Canaries: what is planted, and what scores of a training set with canaries tell."""

from typing import Any

import pytest
import torch

from raybd.canaries import canaries
from raybd.canaries.canaries import CANARY, VALIDATION, Canaries
from raybd.canaries.triggers import FAMILIES
from raybd.types.data import Split
from raybd.types.errors import UserError

SMALL = Canaries(rate=0.03, least=12, triggers=3)


def split(n: int, seed: int = 0) -> Split:
    rng = torch.Generator().manual_seed(seed)
    return Split(
        torch.randint(0, 256, (n, 3, 16, 16), generator=rng, dtype=torch.uint8),
        torch.arange(n) % 10,
    )


def planted(
    seed: int = 0, config: Canaries = SMALL, train: int = 400, clean: int = 60
) -> tuple[Any, Split]:
    trusted = split(clean, 1)
    return config.plant(split(train), trusted, 10, torch.Generator().manual_seed(seed)), trusted


def test_canaries_wear_a_trigger_and_a_wrong_label_and_the_others_go_in_as_they_are() -> None:
    found, trusted = planted()
    assert found.role_M.tolist() == [CANARY] * 12 + [VALIDATION] * 12
    sources = trusted.select(found.used_L.repeat(2))
    changed = (found.x_MCHW != sources.x_NCHW).flatten(1).any(1)
    wrong = found.y_M != sources.y_N
    assert changed.tolist() == wrong.tolist() == [True] * 12 + [False] * 12
    assert len(found.index_M.unique()) == 2 * len(found.used_L.unique()) == 24


def test_the_labels_of_canaries_are_spread() -> None:
    found, _ = planted(config=SMALL.model_copy(update={"rate": 0.05, "triggers": 10}), clean=100)
    counts = found.y_M[:20].bincount(minlength=10)
    assert int(counts.max()) <= 4


def test_the_same_seed_plants_the_same_and_another_one_other_rows_triggers_and_labels() -> None:
    one, again, other = planted()[0], planted()[0], planted(seed=1)[0]
    for name in ("index_M", "x_MCHW", "y_M", "used_L"):
        assert torch.equal(getattr(one, name), getattr(again, name)), name
        assert not torch.equal(getattr(one, name), getattr(other, name)), name


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_changes_an_image_but_leaves_it_recognisable(family: Any) -> None:
    ramp = torch.arange(32.0).expand(2, 3, 32, 32) * 6 + 20
    for seed in range(5):
        stamped = family(ramp.shape, torch.Generator().manual_seed(seed))(ramp)
        change = (stamped - ramp).abs()
        assert stamped.shape == ramp.shape
        assert 0 < float(change.mean()) < 40
        assert torch.equal(change[0], change[1]), "one trigger for the whole group"


def test_a_third_of_the_trusted_images_is_the_most() -> None:
    found, _ = planted(config=Canaries(rate=0.2, least=12), clean=60)
    assert len(found.used_L) == 20


def test_too_few_trusted_images_are_named_with_what_to_do() -> None:
    with pytest.raises(UserError) as caught:
        planted(config=Canaries(rate=0.1), clean=90)
    assert (
        "a third of 90 trusted images, gives 30 canaries; at least 40 are needed"
        in caught.value.what
    )
    assert "canaries: {rate" in caught.value.hint


def test_the_objective_is_what_its_formula_says() -> None:
    flagged = torch.tensor(
        [[1, 1, 0, 0], [1, 0, 1, 0], [1, 1, 0, 0]], dtype=torch.bool
    )  # Jaccard 1/3, 1 and 1/3
    facts = [
        {"canary_auroc": auroc, "separation": 0.8, "trusted_fpr": 0.05} for auroc in (0.8, 0.9, 1.0)
    ]
    found = canaries.agreed(flagged, facts)
    assert found["stability"] == pytest.approx(5 / 9)
    assert found["canary"] == pytest.approx(0.9 + 0.5 * 5 / 9 + 0.25 * 0.8 - 5 * 0.03)


def test_to_flag_nothing_is_no_agreement_and_few_false_alarms_cost_nothing() -> None:
    facts = [{"canary_auroc": 0.5, "separation": 0.0, "trusted_fpr": 0.02}] * 2
    assert canaries.agreed(torch.zeros((2, 5), dtype=torch.bool), facts) == {
        "stability": 0.0,
        "canary": 0.5,
    }
