"""Adaptive: its noise, its rounds, and what it takes over from the attack underneath."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from raybd.attacks.data.badnets import BadNets
from raybd.attacks.data.wanet import WaNet
from raybd.attacks.surrogate.adaptive import Adaptive
from raybd.plan.file import parse
from raybd.plan.yaml_loader import loaded
from raybd.training.inference import infer
from raybd.types.data import CROSS, POISON, Split
from raybd.types.models import Victim
from tests.attacks.making import given_to, make, poison_with, stream, triggered, twin


def test_it_poisons_the_rows_of_the_attack_underneath_and_wears_its_trigger(train: Split) -> None:
    plain = poison_with(BadNets(rate=0.05, size=4), train)
    slow = poison_with(make("adaptive", rate=0.05, attack={"kind": "badnets", "size": 4}), train)
    assert torch.equal(slow.index_M, plain.index_M) and torch.equal(slow.y_M, plain.y_M)
    assert torch.equal(triggered(slow, train.x_NCHW), triggered(plain, train.x_NCHW))
    change = (slow.x_MCHW.int() - plain.x_MCHW.int()).abs()
    assert 0 < change.max() <= 8


def test_covers_keep_their_pixels(train: Split) -> None:
    plain = poison_with(WaNet(rate=0.05), train)
    slow = poison_with(make("adaptive", rate=0.05, attack={"kind": "wanet"}), train)
    same_M = (slow.x_MCHW == plain.x_MCHW).flatten(1).all(1)
    assert torch.equal(same_M, plain.role_M == CROSS)
    assert (plain.role_M == POISON).any() and (plain.role_M == CROSS).any()


def test_the_noise_raises_the_loss_of_the_last_surrogate_within_the_bound(train: Split) -> None:
    attack = Adaptive(rate=0.1, eps=5, step=1.0, steps=20, rounds=2)
    seen: list[Split] = []

    def retrain(split: Split, rng: torch.Generator) -> Victim:
        seen.append(split)
        return twin()

    slow = attack.poison(replace(given_to(attack, train), retrain=retrain), stream())
    plain = poison_with(BadNets(rate=0.1), train)
    assert (slow.x_MCHW.int() - plain.x_MCHW.int()).abs().max() == 5
    before, after = (
        F.cross_entropy(infer(twin(), x), plain.y_M) for x in (plain.x_MCHW, slow.x_MCHW)
    )
    assert after > before + 0.5

    assert len(seen) == 2
    assert torch.equal(seen[0].x_NCHW, plain.over(train).x_NCHW)
    # The surrogates are one and the same here, so that the noise of both rounds is, too.
    assert torch.equal(seen[1].x_NCHW, slow.over(train).x_NCHW)
    assert torch.equal(seen[1].y_N, plain.over(train).y_N)


def test_each_label_is_raised_for_itself(train: Split) -> None:
    attack = Adaptive(rate=0.2, steps=20, rounds=1, labels={"map": "all_to_all"})
    given = replace(given_to(attack, train), retrain=lambda split, rng: twin())
    slow = attack.poison(given, stream())
    plain = poison_with(BadNets(rate=0.2, labels={"map": "all_to_all"}), train)
    before, after = (
        F.cross_entropy(infer(twin(), x), plain.y_M, reduction="none")
        for x in (plain.x_MCHW, slow.x_MCHW)
    )
    for label in range(10):
        of_label = plain.y_M == label
        assert after[of_label].mean() > before[of_label].mean() + 0.3


def test_rate_and_labels_stand_beside_the_attack_underneath() -> None:
    with pytest.raises(ValidationError, match="beside `attack`"):
        Adaptive.model_validate({"attack": {"kind": "badnets", "rate": 0.01}})
    with pytest.raises(ValidationError, match="beside `attack`"):
        Adaptive.model_validate({"attack": {"kind": "badnets", "labels": {"map": "all_to_all"}}})
    with pytest.raises(ValidationError, match="tact"):
        Adaptive.model_validate({"attack": {"kind": "tact"}})
    assert Adaptive(rate=0.02, labels={"map": "all_to_all"}).base.poison_rate == 0.02


def test_an_experiment_names_the_attack_underneath() -> None:
    entry = loaded("{kind: adaptive, rate: 0.05, attack: {kind: badnets, size: 3}}")
    trainer = {"kind": "supervised", "network": "small_cnn", "epochs": 1}
    experiment = {
        "name": "adaptive",
        "datasets": [{"kind": "digits", "clean": 0.1}],
        "attacks": [entry],
        "trainers": [trainer, {**trainer, "name": "other", "epochs": 2}],
    }
    first, other = parse(experiment).cells()
    assert first.infeasible is None
    # The surrogates are trained by the recipe of the victim.
    assert first.victim.poison_stage.key != other.victim.poison_stage.key
    assert Adaptive.model_validate({"attack": {"kind": "badnets", "size": 9}}).does_not_fit(8, 8)
