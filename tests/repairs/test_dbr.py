"""D-BR: it unlearns one part of the training set and relearns the other."""

import copy

import pytest
import torch

from raybd.networks.small_cnn import SmallCnn
from raybd.repairs.dbr import DBR, distance, known
from raybd.training.loop import fit
from raybd.training.models import new_victim
from raybd.training.recipe import Recipe
from raybd.training.sensitivity import SensitivitySplit
from raybd.types.errors import Infeasible
from raybd.types.models import Victim
from tests.some_images import same_weights, some_images

LIGHT = DBR(epochs=6, lr=0.02, batch_size=20, precision="fp32")


def trained() -> Victim:
    """Return a victim that knows four classes."""
    rng = torch.Generator().manual_seed(0)
    recipe = Recipe(epochs=6, lr=0.05, batch_size=20, augment="none", precision="fp32")
    split = some_images()
    return fit(new_victim(split, 4, SmallCnn(width=8), rng), split, recipe, rng)


def rounds(dbr: DBR) -> tuple[Victim, int]:
    """Let a victim unlearn class 0, and relearn the others."""
    victim = trained()
    split = some_images()
    first = split.y_N == 0
    rng = torch.Generator().manual_seed(1)
    done = dbr.resolved().rounds(victim, split.select(first), split.select(~first), rng)
    return victim, done


def test_a_round_ascends_on_the_poisoned_part_and_descends_on_the_clean_one() -> None:
    before = trained()
    split = some_images()
    first = split.select(split.y_N == 0)
    rest = split.select(split.y_N != 0)
    assert known(before, first) > 0.8
    after, done = rounds(LIGHT)
    assert known(after, first) < 0.2
    assert known(after, rest) > 0.8
    assert distance(after, first) > distance(before, first) + 1
    assert 0 < done <= 6


def test_what_is_far_from_its_labels_is_not_unlearned_further() -> None:
    _, done = rounds(LIGHT.model_copy(update={"furthest": 1e-6}))
    assert done == 0
    free, _ = rounds(LIGHT.model_copy(update={"furthest": 1e6}))
    bound, _ = rounds(LIGHT.model_copy(update={"furthest": 1.0}))
    first = some_images().select(some_images().y_N == 0)
    assert distance(bound, first) < distance(free, first)


def test_an_encoder_without_a_head_has_no_labels_to_unlearn() -> None:
    victim = copy.deepcopy(trained())
    victim.head = None
    with pytest.raises(Infeasible):
        LIGHT.repair(victim, some_images(), some_images(), torch.Generator())


def test_says_where_the_most_sensitive_images_have_many_labels() -> None:
    victim = trained()
    before = copy.deepcopy(victim)
    # Half of the images: there are four classes of 25.
    dbr = LIGHT.model_copy(update={"split": SensitivitySplit(epochs=1, poison_share=0.5)})
    found = dbr.repair(victim, some_images(), some_images(), torch.Generator().manual_seed(2))
    assert "have one label: either there is no backdoor" in str(found.warning)
    assert found.facts["poison part"] == 50
    assert found.facts["clean part"] == 20
    assert same_weights(victim, before)
