"""What every attack keeps, whatever it does."""

import copy
import pickle
import re
import sys
from dataclasses import replace
from typing import Any, cast

import pytest
import torch

from raybd.poisoning.label_maps import CleanLabel, CleanSourceToTarget
from raybd.registry import method_class, names
from raybd.training import inference
from raybd.types.data import CROSS, POISON, Split
from raybd.types.errors import UserError
from raybd.types.methods import Attack
from raybd.types.models import Victim
from tests.attacks.making import (
    ON_GIVEN_IMAGES,
    RECIPE,
    SMALL,
    encoder,
    given_to,
    make,
    poison,
    poison_with,
    random_split,
    stream,
    triggered,
    twin,
)
from tests.groups import in_group


def _class_of(kind: str) -> type[Attack]:
    return cast(type[Attack], method_class("attacks", kind))


def _accepts_all_to_all(kind: str) -> bool:
    labels = _class_of(kind).model_json_schema()["properties"].get("labels", {})
    return "all_to_all" in str(labels.get("discriminator"))


def _role_of_poison(attack: Attack) -> int:
    """The role of what it changes: controls install no backdoor."""
    return POISON if attack.has_trigger or attack.chooses_test else CROSS


KINDS = tuple(kind for kind in names("attacks") if kind not in ON_GIVEN_IMAGES)
ON_ENCODERS = tuple(kind for kind in KINDS if _class_of(kind).threat_model == "encoder")
ON_DATA = tuple(kind for kind in KINDS if _class_of(kind).threat_model in ("data", "training"))
WITH_TRIGGER = tuple(kind for kind in KINDS if _class_of(kind).has_trigger)
CONTROLLING = tuple(kind for kind in KINDS if _class_of(kind).threat_model == "training")
IN_TRAINING_SET = tuple(kind for kind in ON_DATA if _class_of(kind).poisons_training_set)
WITH_TWIN = tuple(kind for kind in KINDS if _class_of(kind).needs_twin)
PREPARED = tuple(kind for kind in KINDS if _class_of(kind).prepared_from)
WITH_ANY_LABEL_MAP = tuple(kind for kind in KINDS if _accepts_all_to_all(kind))


@pytest.fixture(scope="module")
def train() -> Split:
    return random_split()


@pytest.mark.parametrize("kind", KINDS)
def test_leaves_the_clean_split_alone(kind: str, train: Split) -> None:
    x, y = train.x_NCHW.clone(), train.y_N.clone()
    poison_with(make(kind), train).over(train)
    assert torch.equal(train.x_NCHW, x)
    assert torch.equal(train.y_N, y)


@pytest.mark.parametrize("kind", KINDS)
def test_changes_exactly_the_samples_that_it_marks(kind: str, train: Split) -> None:
    poisoned = poison(kind, train)
    after = poisoned.over(train)
    changed_N = (after.x_NCHW != train.x_NCHW).flatten(1).any(1)
    if not make(kind).has_trigger:
        assert not changed_N.any()
        changed_N = after.y_N != train.y_N
    assert torch.equal(changed_N, poisoned.role_N(len(train)) > 0)


@pytest.mark.parametrize("kind", IN_TRAINING_SET)
@pytest.mark.parametrize("rate", [0.02, 0.1])
def test_poisons_the_promised_share(kind: str, rate: float, train: Split) -> None:
    attack = make(kind, rate=rate)
    poisoned = poison(kind, train, rate=rate)
    role = _role_of_poison(attack)
    # Of the whole set, or of the one class that a clean-label attack may poison.
    of_class = attack.rate_basis == "of_class"
    share_of = int(attack.label_map.eligible(train.y_N).sum()) if of_class else len(train)
    # Without a basis, whole batches are poisoned, and `rate` is the share of what is shown of it.
    assert attack.poison_rate == (None if attack.rate_basis is None else rate)
    assert int((poisoned.role_M == role).sum()) == round(rate * share_of)
    assert len(poisoned.index_M.unique()) == len(poisoned.index_M)


@pytest.mark.parametrize("kind", sorted(set(ON_DATA) - set(IN_TRAINING_SET)))
def test_an_attack_that_says_so_changes_no_training_image(kind: str, train: Split) -> None:
    assert make(kind).threat_model == "training"
    assert poison(kind, train).over(train) is train


@pytest.mark.parametrize("kind", IN_TRAINING_SET)
def test_the_seed_decides_the_poison(kind: str, train: Split) -> None:
    first, again, other = (poison_with(make(kind), train, seed) for seed in (0, 0, 1))
    assert torch.equal(first.index_M, again.index_M)
    assert torch.equal(first.x_MCHW, again.x_MCHW)
    assert torch.equal(first.y_M, again.y_M)
    # A model, or what images show, selects the same rows for every seed.
    drawn = not make(kind).selects
    assert not torch.equal(first.index_M, other.index_M) or not drawn


@pytest.mark.parametrize("kind", ON_ENCODERS)
def test_an_attack_on_an_encoder_changes_no_image_and_returns_an_encoder_at_rest(
    kind: str, train: Split
) -> None:
    attack = make(kind)
    start = encoder(attack)
    before = copy.deepcopy(start.state_dict())
    poisoned = poison_with(attack, train, clean_twin=start)
    infected = poisoned.victim
    assert infected is not None
    assert poisoned.over(train) is train
    assert torch.equal(poisoned.labels.counted(train.y_N), train.y_N != 0)
    assert infected.head is None
    assert not any(module.training for module in infected.modules())
    # The texts of a CLIP are frozen outside of its training.
    assert all(p.requires_grad or ".read." in name for name, p in infected.named_parameters())
    assert all(parameter.device.type == "cpu" for parameter in infected.parameters())
    assert torch.equal(infected.mean_C, start.mean_C)
    assert torch.equal(infected.std_C, start.std_C)
    assert all(torch.equal(value, before[name]) for name, value in start.state_dict().items()), (
        "the clean encoder is left alone"
    )
    assert infected.state_dict().keys() == before.keys()
    assert not torch.equal(
        inference.infer(infected, train.x_NCHW[:8]), inference.infer(start, train.x_NCHW[:8])
    )


@pytest.mark.parametrize("kind", ON_ENCODERS)
def test_the_seed_decides_the_encoder(kind: str, train: Split) -> None:
    first, again, other = (
        cast(Victim, poison_with(make(kind), train, seed).victim).state_dict() for seed in (0, 0, 1)
    )
    assert all(torch.equal(again[name], value) for name, value in first.items())
    assert any(not torch.equal(other[name], value) for name, value in first.items())


@pytest.mark.parametrize("kind", KINDS)
def test_the_plan_draws_the_same_rows_as_the_attack(kind: str, train: Split) -> None:
    attack = make(kind)
    chosen = attack.choose(train.y_N, 10, stream(3))
    poisoned = poison_with(make(kind), train, 3)
    role = _role_of_poison(attack)
    rows = poisoned.index_M[poisoned.role_M == role]
    if attack.selects:
        assert torch.isin(rows, chosen).all()
        assert len(rows) == round(cast(float, attack.poison_rate) * len(train)) <= len(chosen)
    else:
        assert torch.equal(chosen, rows)


@pytest.mark.parametrize("kind", WITH_TRIGGER)
def test_the_trigger_is_visible_after_rounding_and_never_wraps_around(
    kind: str, train: Split
) -> None:
    poisoned = poison(kind, train)
    for value in (0, 255):
        flat = torch.full((4, 3, 16, 16), value, dtype=torch.uint8)
        change = triggered(poisoned, flat).int() - value
        # Black can only get brighter, and white darker: a wrapped sum would do both.
        assert change.min() >= 0 if value == 0 else change.max() <= 0
    with_trigger = triggered(poisoned, train.x_NCHW[:8])
    assert with_trigger.dtype == torch.uint8
    assert (with_trigger != train.x_NCHW[:8]).flatten(1).any(1).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_trigger_is_the_same_after_pickling_and_from_stored_state(
    kind: str, train: Split
) -> None:
    poisoned = poison(kind, train)
    x, wanted = train.x_NCHW[:8], torch.arange(8) % 3
    again = pickle.loads(pickle.dumps(poisoned))
    assert torch.equal(again.trigger(x, wanted), poisoned.trigger(x, wanted))
    from_state = make(kind).stamp_toward(x, wanted, poisoned.state)
    assert torch.equal(from_state, poisoned.trigger(x, wanted))


@pytest.mark.parametrize("kind", KINDS)
def test_cites_its_paper_and_survives_a_round_trip(kind: str) -> None:
    attack_class = _class_of(kind)
    doc = sys.modules[attack_class.__module__].__doc__ or ""
    # Some papers are in proceedings only.
    paper = r"(arXiv \d{4}\.\d{5}|(ICCV|NeurIPS|ICLR|AAAI) \d{4}).*section"
    assert kind == "none" or re.search(paper, doc, re.S)
    attack = attack_class()
    assert attack_class.model_validate_json(attack.model_dump_json()) == attack
    assert all(info.description for info in attack_class.model_fields.values())


# --- the size of the images ----------------------------------------------------------------------

SMALLEST: dict[str, tuple[dict[str, object], int]] = {
    "badnets": ({"size": 3, "margin": 2}, 5),
    "tact": ({"size": 3}, 3),
    "trojannn": ({"size": 8}, 8),
    "label_consistent": ({}, 6),
    "ssl_patch": ({"size": 6}, 6),
    "ctrl": ({"window": 2}, 2),
    "hidden_trigger": ({"size": 5}, 5),
    "sleeper_agent": ({"size": 5}, 5),
    "corrupt_encoder": ({"size": 3}, 12),
    "noisy_alignment": ({"size": 8}, 8),
    "badencoder": ({"size": 10, "margin": 1}, 11),
    "drupe": ({"size": 10, "margin": 1}, 11),
    "clip_text": ({"size": 4, "margin": 1}, 5),
    "badclip": ({"size": 4}, 4),
}
"""Fields, and the smallest side of an image that the trigger fits into."""


@pytest.mark.parametrize("kind", SMALLEST)
def test_a_trigger_that_is_partly_outside_of_the_image_does_not_fit(kind: str) -> None:
    fields, side = SMALLEST[kind]
    attack = make(kind, **fields)
    assert attack.does_not_fit(side, side) is None
    assert attack.does_not_fit(side, 40) is None
    assert attack.does_not_fit(40, side) is None
    for height, width in ((side - 1, 40), (40, side - 1), (side - 1, side - 1)):
        assert f"{width} x {height}" in str(attack.does_not_fit(height, width))


@pytest.mark.parametrize("kind", KINDS)
def test_every_trigger_of_a_given_size_says_what_it_fits_into(kind: str) -> None:
    attack = make(kind)
    assert attack.does_not_fit(16, 16) is None
    # Whether the patches of badnets_multi fit depends on the number of classes.
    assert ("size" in type(attack).model_fields) <= (kind in {*SMALLEST, "badnets_multi"})


# --- what the class declares ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_returns_a_victim_exactly_if_it_controls_training_or_an_encoder(
    kind: str, train: Split
) -> None:
    makes_victim = make(kind).threat_model in ("training", "encoder")
    assert (poison(kind, train).victim is not None) == makes_victim


@pytest.mark.parametrize("kind", KINDS)
def test_has_a_rate_exactly_if_the_rate_has_a_basis(kind: str) -> None:
    attack = make(kind)
    assert (attack.poison_rate is None) == (attack.rate_basis is None)


@pytest.mark.parametrize("kind", KINDS)
def test_counts_no_test_image_exactly_if_it_has_no_trigger(kind: str, train: Split) -> None:
    attack = make(kind)
    succeeds = attack.has_trigger or attack.chooses_test
    assert bool(attack.label_map.counted(train.y_N).any()) == succeeds


@pytest.mark.parametrize("kind", PREPARED)
def test_what_is_prepared_depends_on_neither_rate_nor_labels(kind: str, train: Split) -> None:
    labels = {"labels": {"map": "all_to_all"}} if kind in WITH_ANY_LABEL_MAP else {}
    attack, other = make(kind, rate=0.1), make(kind, rate=0.05, **labels)
    assert set(attack.prepared_from) <= set(type(attack).model_fields) - {"rate", "labels"}
    first, again = (each.prepare(given_to(each, train), stream()) for each in (attack, other))
    assert first.keys() == again.keys() and first
    assert all(torch.equal(again[name], tensor) for name, tensor in first.items())


@pytest.mark.parametrize("kind", sorted(set(KINDS) - set(PREPARED)))
def test_nothing_is_prepared_unless_it_is_declared(kind: str, train: Split) -> None:
    assert make(kind).prepare(given_to(make(kind), train), stream()) == {}


@pytest.mark.parametrize("kind", WITH_TWIN)
def test_a_twin_without_a_head_is_refused(kind: str, train: Split) -> None:
    with pytest.raises(UserError, match="linear head"):
        poison_with(make(kind), train, 0, encoder())


@pytest.mark.parametrize("kind", KINDS)
def test_side_data_matters_exactly_if_it_is_read(kind: str, train: Split) -> None:
    attack = make(kind)
    if attack.prepared_from or attack.threat_model in ("training", "encoder"):
        assert not attack.reads_side_data
        return
    side_data = Split(255 - train.x_NCHW[:20], train.y_N[:20])
    given = given_to(attack, train)
    without = attack.poison(given, stream())
    with_it = attack.poison(replace(given, side_data=side_data), stream())
    assert torch.equal(without.x_MCHW, with_it.x_MCHW) != attack.reads_side_data


@pytest.mark.parametrize("kind", CONTROLLING)
def test_an_attack_that_controls_training_trains_as_the_trainer_would(
    kind: str, train: Split
) -> None:
    attack = make(kind)
    few = train.select(torch.arange(120))
    assert attack.follows_recipe, "or victims under different trainers would be the same one"
    assert attack.cannot_train_as(RECIPE) is None
    first = poison_with(attack, few)
    for changed in (
        {"lr": 0.1},
        {"epochs": 2},
        {"batch_size": 32},
        {"momentum": 0.0},
        {"weight_decay": 0.1},
        {"optimizer": "adam"},
        {"schedule": "constant"},
        {"warmup": 0.5},
        {"clip": 0.1},
        {"augment": "none"},
    ):
        trainer = RECIPE.model_copy(update=changed)
        other = poison_with(attack, few, trainer=trainer)
        assert first.victim is not None and other.victim is not None
        weights = other.victim.state_dict()
        assert any(
            not torch.equal(weights[name], value)
            for name, value in first.victim.state_dict().items()
        ), changed


# --- all-to-all ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", WITH_ANY_LABEL_MAP)
def test_all_to_all_moves_every_poisoned_label_by_one(kind: str, train: Split) -> None:
    poisoned = poison_with(make(kind, labels={"map": "all_to_all"}), train)
    moved_M = poisoned.role_M == POISON
    true_M = train.y_N[poisoned.index_M]
    assert torch.equal(poisoned.y_M[moved_M], (true_M[moved_M] + 1) % 10)
    assert torch.equal(poisoned.y_M[~moved_M], true_M[~moved_M])
    assert poisoned.labels.counted(train.y_N).all()


KEEPS_LABELS = (CleanLabel, CleanSourceToTarget)


def test_every_dirty_label_attack_on_data_has_all_to_all() -> None:
    aims_otherwise = {"badnets_multi", "marksman", "tact", "uba"}
    dirty = {
        kind
        for kind in ON_DATA
        if _class_of(kind).has_trigger and not isinstance(make(kind).label_map, KEEPS_LABELS)
    }
    assert dirty - aims_otherwise <= set(WITH_ANY_LABEL_MAP)


# --- process groups ------------------------------------------------------------------------------


def _poison_by_each(clean_twin: Victim) -> dict[str, dict[str, torch.Tensor]]:
    fields: dict[str, Any] = {"input_aware": {"generator_lr": 1e-4}}
    trainer = RECIPE.model_copy(update={"batch_size": 200, "precision": "fp32"})
    made = {
        kind: poison_with(
            make(kind, **fields.get(kind, {})), random_split(), 0, clean_twin, trainer
        )
        for kind in SMALL
        if kind in IN_TRAINING_SET
    }
    return {
        kind: {"index_M": one.index_M, "x_MCHW": one.x_MCHW, **one.state}
        for kind, one in made.items()
    }


def test_every_worker_of_a_group_ends_with_the_poison_of_one_process() -> None:
    alone = _poison_by_each(twin())
    first, second = in_group(_poison_by_each, twin())
    for kind, tensors in alone.items():
        for name, tensor in tensors.items():
            assert torch.equal(first[kind][name], second[kind][name]), (kind, name)
            off = (first[kind][name].float() - tensor.float()).abs().mean()
            assert off <= 1e-3 * (1 + tensor.float().abs().mean()), (kind, name)
