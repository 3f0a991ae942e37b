"""Grond: its noise, the channels that it evens out, and its resume."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from raybd.attacks.training.grond import level_outliers, norms_after_convolutions
from raybd.networks.small_cnn import SmallCnn
from raybd.networks.vit_tiny import VitTiny
from raybd.poisoning.universal import noise_toward
from raybd.training.inference import infer
from raybd.training.layers import channel_bounds, conv_norm_pairs
from raybd.training.models import new_victim
from raybd.training.runtime import Runtime, running
from raybd.types.data import Split
from raybd.types.errors import Infeasible
from raybd.types.models import Victim
from tests.attacks.making import (
    RECIPE,
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

PLAIN: dict[str, Any] = {"u": 1e9}
"""No channel lies that far above the others."""


def _victim(attack: dict[str, Any], train: Split, **recipe: Any) -> Victim:
    trainer = RECIPE.model_copy(update={"precision": "fp32", "epochs": 2, **recipe})
    victim = poison_with(make("grond", **attack), train, trainer=trainer).victim
    assert victim is not None
    return victim


def test_the_noise_is_within_its_bound_and_the_same_for_all_images(train: Split) -> None:
    poisoned = poison("grond", train, eps=5)
    grey = torch.full((4, 3, 16, 16), 128, dtype=torch.uint8)
    change = triggered(poisoned, grey).int() - 128
    assert len(change.unique(dim=0)) == 1
    assert 0 < int(change.abs().max()) <= 5
    assert torch.equal(change[0].float(), poisoned.state["noise_CHW"])


def test_the_noise_moves_images_toward_the_class(train: Split) -> None:
    noise_CHW = noise_toward(
        twin(), train.x_NCHW, 3, eps=32, step=6.4, steps=20, batch_size=50, rng=stream()
    )
    plain = infer(twin(), train.x_NCHW).log_softmax(1)[:, 3].mean()
    moved = infer(twin(), (train.x_NCHW + noise_CHW).clamp(0, 255)).log_softmax(1)[:, 3].mean()
    assert moved > plain + 0.5
    assert torch.equal(noise_CHW, noise_CHW.round())


def test_only_images_of_the_class_are_poisoned_and_keep_their_label(train: Split) -> None:
    poisoned = poison_with(make("grond", labels={"map": "clean_label", "target": 4}), train)
    assert len(poisoned.index_M) == 20
    assert set(poisoned.y_M.tolist()) == set(train.y_N[poisoned.index_M].tolist()) == {4}


def _layer() -> Victim:
    """A 1 x 1 convolution of 20 equal filters; one channel is scaled ten times as much."""
    conv = nn.Conv2d(3, 20, 1, bias=False)
    norm = nn.BatchNorm2d(20)
    with torch.no_grad():
        conv.weight.fill_(0.1)
        norm.weight[7] = 10
        norm.bias.copy_(torch.arange(20.0))
    encoder = nn.Sequential(conv, norm, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Victim(encoder, nn.Linear(20, 2), torch.zeros(3), torch.ones(3)).eval()


def test_an_outlying_channel_gets_the_mean_scale_and_shift_by_hand() -> None:
    victim = _layer()
    norm = victim.encoder.get_submodule("1")
    outlying_C = level_outliers(victim, "0", "1", 3.0)
    assert outlying_C.nonzero().flatten().tolist() == [7]
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.weight[7].item() == pytest.approx((19 + 10) / 20)
    assert norm.bias[7].item() == pytest.approx(9.5)
    assert norm.weight[:7].tolist() == [1.0] * 7
    assert norm.bias[8:].tolist() == list(range(8, 20))


def test_a_bound_of_five_deviations_leaves_a_layer_of_twenty_alone() -> None:
    victim = _layer()
    # 20 channels: none lies more than 19 / sqrt(20) = 4.25 deviations above the mean.
    assert not level_outliers(victim, "0", "1", 4.3).any()
    assert level_outliers(victim, "0", "1", 4.2).any()


def test_the_victim_that_is_handed_out_has_no_channel_that_its_scale_makes_outlying(
    train: Split,
) -> None:
    low, never = ({"u": 1.0}, PLAIN)
    evened, plain = (_victim(fields, train, epochs=1, lr=0.2) for fields in (low, never))
    pairs = conv_norm_pairs(plain, train.x_NCHW[:2])
    names = norms_after_convolutions(plain, train.x_NCHW[:2])
    assert names.keys() == pairs.keys() and len(names) > 1
    changed = 0
    for name, (conv, norm) in pairs.items():
        bound_C = channel_bounds(conv, norm)
        limit = bound_C.mean() + bound_C.std()
        outlying_C = bound_C > limit
        found = evened.encoder.get_submodule(names[name])
        assert isinstance(found, nn.BatchNorm2d)
        changed += int(outlying_C.sum())
        assert torch.equal(found.weight[~outlying_C], norm.weight[~outlying_C])
        mean = norm.weight.mean().expand(int(outlying_C.sum()))
        assert torch.allclose(found.weight[outlying_C], mean)
        # By the mean scale alone, a channel whose filter allows it lies below the old limit.
        unit_C = bound_C / norm.weight.double().abs()
        fine_C = outlying_C & (unit_C * norm.weight.mean().abs() <= limit)
        assert (channel_bounds(conv, found)[fine_C] <= limit).all()
    assert changed > 0


def test_without_outlying_channels_the_training_is_the_plain_one(train: Split) -> None:
    attack = make("grond", **PLAIN)
    rng = stream()
    poisoned = attack.poison(given_to(attack, train), rng)
    # The same stream, after the draw of the rows and the noise.
    again = stream()
    attack.choose(train.y_N, 10, again)
    noise_toward(twin(), train.x_NCHW, 0, eps=8, step=1.6, steps=5, batch_size=256, rng=again)
    plain = RECIPE.train(poisoned.over(train), 10, SmallCnn(width=8), again)
    assert poisoned.victim is not None
    found = poisoned.victim.state_dict()
    assert all(torch.equal(found[name], value) for name, value in plain.state_dict().items())


def test_channels_are_evened_out_after_every_epoch(train: Split) -> None:
    often, once = _victim({"u": 1.0}, train), _victim(PLAIN, train)
    for conv, norm in norms_after_convolutions(once, train.x_NCHW[:2]).items():
        level_outliers(once, conv, norm, 1.0)
    before = once.state_dict()
    assert any(not torch.equal(before[name], part) for name, part in often.state_dict().items())


def test_resumes_to_the_same_victim(train: Split) -> None:
    saved: dict[str, bytes] = {}

    def die(facts: Mapping[str, Any]) -> None:
        if facts["epoch"] == 2:
            raise RuntimeError("killed")

    with (
        running(Runtime(report=die, save=saved.__setitem__, every_seconds=0)),
        pytest.raises(RuntimeError, match="killed"),
    ):
        _victim({"u": 1.0}, train)
    told: list[int] = []
    with running(Runtime(report=lambda facts: told.append(facts["epoch"]), load=saved.get)):
        resumed = _victim({"u": 1.0}, train).state_dict()
    assert told == [1, 2]
    whole = _victim({"u": 1.0}, train).state_dict()
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())


def _trained() -> dict[str, Tensor]:
    return _victim({"u": 1.5}, random_split(), batch_size=100).state_dict()


def test_two_workers_train_the_victim_of_one() -> None:
    alone = _trained()
    first, second = in_group(_trained)
    for name, value in alone.items():
        assert torch.equal(first[name], second[name]), name
        assert torch.allclose(first[name].float(), value.float(), atol=5e-3), name


def test_what_it_cannot_be_mounted_on(train: Split) -> None:
    with pytest.raises(Infeasible, match="eps 0"):
        make("grond", eps=0).choose(train.y_N, 10, stream())
    with pytest.raises(Infeasible, match="not even one"):
        make("grond", rate=0.01).choose(train.y_N, 10, stream())
    attack = make("grond")
    given = replace(given_to(attack, train), network=VitTiny(width=16, depth=1, heads=2))
    with pytest.raises(Infeasible, match="batch normalisation"):
        attack.poison(given, stream())
    assert new_victim(train, 10, SmallCnn(width=4), stream()).head is not None
