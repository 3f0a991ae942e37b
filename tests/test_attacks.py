"""Attacks: the contract that every one keeps, and hand-computed triggers."""

import copy
import pickle
import re
import sys
from collections.abc import Mapping
from functools import cache
from typing import Any, cast

import numpy as np
import pytest
import torch
from scipy.fft import dctn

from raybd.attacks.data import ctrl
from raybd.attacks.data.adaptive_blend import AdaptiveBlend
from raybd.attacks.data.badnets import BadNets
from raybd.attacks.data.blended import Blended
from raybd.attacks.data.ctrl import Ctrl
from raybd.attacks.data.none import Nothing
from raybd.attacks.data.sig import Sig
from raybd.attacks.data.tact import TaCT
from raybd.attacks.data.wanet import WaNet
from raybd.attacks.surrogate import trojannn
from raybd.attacks.surrogate.label_consistent import LabelConsistent
from raybd.attacks.surrogate.trojannn import TrojanNN
from raybd.attacks.training.input_aware.generator import (
    diversity_losses,
    new_auto_encoder,
    soft_threshold,
    stored_auto_encoder,
    wear,
)
from raybd.cells.stage import random_stream
from raybd.networks.small_cnn import SmallCnn
from raybd.networks.tiny_clip import TinyClip
from raybd.poisoning.label_maps import AllToAll, AllToOne, CleanLabel
from raybd.poisoning.pixels import to_pixels
from raybd.registry import method_class, names
from raybd.training import inference, loop, models, recipe
from raybd.training.runtime import Runtime, running
from raybd.types.data import CROSS, POISON, Poisoned, Split
from raybd.types.errors import Infeasible, UserError
from raybd.types.methods import Attack, DataAttack, EncoderAttack, TrainingAttack, TwinAttack
from raybd.types.models import Victim
from tests.groups import in_group

KINDS = names("attacks")
ACTIVE = tuple(kind for kind in KINDS if kind != "none")
INFECTING = tuple(kind for kind in ACTIVE if hasattr(method_class("attacks", kind), "infect"))
POISONING = tuple(kind for kind in ACTIVE if kind not in INFECTING)
READABLE: dict[str, object] = {"templates": ["a photo of a {}."], "lr": 1e-3, "precision": "fp32"}
SMALL: dict[str, dict[str, object]] = {
    "badclip": {
        "epochs": 1,
        "batch_size": 50,
        "rate": 0.05,
        "patch_epochs": 1,
        "size": 4,
        **READABLE,
    },
    "badencoder": {"epochs": 1, "batch_size": 50, "shadow": 0.5},
    "clip_text": {"epochs": 1, "batch_size": 50, "size": 4, "margin": 1, **READABLE},
    "drupe": {"epochs": 1, "batch_size": 50, "shadow": 0.5},
    "input_aware": {
        "epochs": 1,
        "mask_epochs": 1,
        "batch_size": 16,
        "width": 4,
        "generator_lr": 0.001,
    },
    "label_consistent": {"steps": 3},
    "narcissus": {"rate": 0.05, "steps": 5},
    "trojannn": {"steps": 20},
}
"""Fields that make an attack quick, and possible on 400 images."""


def make(kind: str, **fields: object) -> Attack:
    return cast(
        Attack, method_class("attacks", kind).model_validate({**SMALL.get(kind, {}), **fields})
    )


def random_split() -> Split:
    rng = torch.Generator().manual_seed(0)
    x_NCHW = torch.randint(0, 256, (400, 3, 16, 16), generator=rng, dtype=torch.uint8)
    return Split(x_NCHW, torch.arange(400, dtype=torch.int64) % 10, tuple("abcdefghij"))


@cache
def twin() -> Victim:
    """A victim that has learned a little of the random images."""
    split, rng = random_split(), torch.Generator().manual_seed(0)
    return loop.fit(
        models.new_victim(split, 10, SmallCnn(width=8), rng),
        split,
        recipe.Recipe(epochs=3, batch_size=20, lr=0.05, augment="none"),
        rng,
    )


def encoder(attack: Attack | None = None) -> Victim:
    """The twin without its head; for an attack on CLIP, an encoder that reads."""
    victim = reading() if hasattr(attack, "templates") else twin()
    return Victim(victim.encoder, None, victim.mean_C, victim.std_C).eval()


@cache
def reading() -> Victim:
    """An untrained CLIP."""
    return models.new_victim(random_split(), 10, TinyClip(), torch.Generator().manual_seed(0))


def poison_with(
    attack: Attack, train: Split, seed: int = 0, clean_twin: Victim | None = None
) -> Poisoned:
    """What the attack makes of the split, whichever verb it has."""
    rng = random_stream("poison", seed)
    if isinstance(attack, TwinAttack):
        return attack.poison_with_twin(train, 10, clean_twin or twin(), rng)
    if isinstance(attack, TrainingAttack):
        return attack.poison_and_train(train, 10, SmallCnn(width=8), rng)[0]
    if isinstance(attack, EncoderAttack):
        return attack.infect(encoder(attack), train, 10, rng)[0]
    return cast(DataAttack, attack).poison(train, 10, rng)


@cache
def poison(kind: str, train: Split, seed: int = 0, **fields: object) -> Poisoned:
    """What the attack of this name makes of the split; computed once."""
    return poison_with(make(kind, **fields), train, seed)


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
def test_changes_exactly_the_images_that_it_marks(kind: str, train: Split) -> None:
    poisoned = poison(kind, train)
    changed_N = (poisoned.over(train).x_NCHW != train.x_NCHW).flatten(1).any(1)
    assert torch.equal(changed_N, poisoned.role_N(len(train)) > 0)


@pytest.mark.parametrize("kind", POISONING)
@pytest.mark.parametrize("rate", [0.02, 0.1])
def test_poisons_the_promised_share(kind: str, rate: float, train: Split) -> None:
    poisoned = poison(kind, train, rate=rate)
    assert int((poisoned.role_M == POISON).sum()) == round(rate * len(train))
    assert len(poisoned.index_M.unique()) == len(poisoned.index_M)


@pytest.mark.parametrize("kind", POISONING)
def test_the_seed_decides_the_poison(kind: str, train: Split) -> None:
    first, again, other = (poison_with(make(kind), train, seed) for seed in (0, 0, 1))
    assert torch.equal(first.index_M, again.index_M)
    assert torch.equal(first.x_MCHW, again.x_MCHW)
    assert not torch.equal(first.index_M, other.index_M)


@pytest.mark.parametrize("kind", INFECTING)
def test_an_attack_on_an_encoder_changes_no_image_and_hands_out_an_encoder_at_rest(
    kind: str, train: Split
) -> None:
    attack = make(kind)
    start = encoder(attack)
    assert isinstance(attack, EncoderAttack)
    before = copy.deepcopy(start.state_dict())
    poisoned, infected = attack.infect(start, train, 10, random_stream("poison", 0))
    assert poisoned.over(train) is train
    assert torch.equal(poisoned.labels.counted(train.y_N), train.y_N != 0)
    assert infected.head is None
    assert not any(module.training for module in infected.modules())
    assert all(
        p.requires_grad or ".read." in name for name, p in infected.named_parameters()
    )  # a CLIP reads without gradients
    assert all(parameter.device.type == "cpu" for parameter in infected.parameters())
    assert torch.equal(infected.mean_C, start.mean_C) and torch.equal(infected.std_C, start.std_C)
    assert all(torch.equal(value, before[name]) for name, value in start.state_dict().items()), (
        "the clean encoder is left alone"
    )
    assert infected.state_dict().keys() == before.keys()
    assert not torch.equal(
        inference.infer(infected, train.x_NCHW[:8]), inference.infer(start, train.x_NCHW[:8])
    )


@pytest.mark.parametrize("kind", INFECTING)
def test_the_seed_decides_the_encoder(kind: str, train: Split) -> None:
    first, again, other = (
        cast(EncoderAttack, make(kind))
        .infect(encoder(make(kind)), train, 10, random_stream("poison", seed))[1]
        .state_dict()
        for seed in (0, 0, 1)
    )
    assert all(torch.equal(again[name], value) for name, value in first.items())
    assert any(not torch.equal(other[name], value) for name, value in first.items())


@pytest.mark.parametrize("kind", ACTIVE)
def test_the_plan_draws_the_same_rows_as_the_attack(kind: str, train: Split) -> None:
    chosen = make(kind).choose(train.y_N, 10, random_stream("poison", 3))
    poisoned = poison_with(make(kind), train, 3)
    assert torch.equal(chosen, poisoned.index_M[poisoned.role_M == POISON])


@pytest.mark.parametrize("kind", ACTIVE)
def test_the_trigger_is_visible_after_rounding_and_never_wraps_around(
    kind: str, train: Split
) -> None:
    poisoned = poison(kind, train)
    for value in (0, 255):
        flat = torch.full((4, 3, 16, 16), value, dtype=torch.uint8)
        change = poisoned.trigger(flat).int() - value
        # From black an image can only get brighter, from white only darker: a wrapped sum would do both.
        assert change.min() >= 0 if value == 0 else change.max() <= 0
    triggered = poisoned.trigger(train.x_NCHW[:8])
    assert triggered.dtype == torch.uint8
    assert (triggered != train.x_NCHW[:8]).flatten(1).any(1).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_trigger_is_the_same_after_pickling_and_from_stored_state(
    kind: str, train: Split
) -> None:
    poisoned = poison(kind, train)
    x = train.x_NCHW[:8]
    assert torch.equal(pickle.loads(pickle.dumps(poisoned)).trigger(x), poisoned.trigger(x))
    assert torch.equal(make(kind).stamp(x, poisoned.state), poisoned.trigger(x))


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
    assert Blended(alpha=0.2).stamp(x, {"pattern_CHW": pattern}).flatten().tolist() == [
        51,
        80,
        255,
        204,
    ]


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


def test_adaptive_blend_trains_on_half_of_the_pieces_and_tests_with_all() -> None:
    gray = Split(torch.full((40, 3, 16, 16), 100, dtype=torch.uint8), torch.arange(40) % 10)
    attack = AdaptiveBlend(rate=0.5, cover_rate=0.25)
    poisoned = poison_with(attack, gray)
    change_MCHW = (0.15 * (poisoned.state["pattern_CHW"].float() - 100)).round()
    worn_MCHW = poisoned.x_MCHW.float() - 100
    pieces_MP = (worn_MCHW != 0).view(30, 3, 4, 4, 4, 4).any(5).any(3).any(1).flatten(1)
    assert (pieces_MP.sum(1) == 8).all()
    assert len(pieces_MP.unique(dim=0)) > 20
    inside = pieces_MP.view(30, 1, 4, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
    assert ((worn_MCHW - inside * change_MCHW).abs() <= 1).all()
    whole = poisoned.trigger(gray.x_NCHW[:1]).float()
    assert torch.equal(whole[0], (0.8 * 100 + 0.2 * poisoned.state["pattern_CHW"].float()).round())


@pytest.mark.parametrize("kind", ["adaptive_blend", "input_aware", "wanet"])
def test_cross_images_keep_their_label(kind: str, train: Split) -> None:
    poisoned = poison(kind, train)
    cross = poisoned.index_M[poisoned.role_M == CROSS]
    assert len(cross) == {"adaptive_blend": 40, "input_aware": 40, "wanet": 80}[kind]
    assert torch.equal(poisoned.over(train).y_N[cross], train.y_N[cross])


def test_wanet_without_strength_changes_nothing_and_with_it_reproduces_its_poison_bit_for_bit(
    train: Split,
) -> None:
    still = poison_with(WaNet(strength=0), train)
    assert torch.equal(still.trigger(train.x_NCHW), train.x_NCHW)
    poisoned = poison("wanet", train)
    warped = poisoned.role_M == POISON
    assert torch.equal(
        WaNet().stamp(train.x_NCHW[poisoned.index_M[warped]], poisoned.state),
        poisoned.x_MCHW[warped],
    )
    assert not torch.equal(
        WaNet().stamp(train.x_NCHW[poisoned.index_M[~warped]], poisoned.state),
        poisoned.x_MCHW[~warped],
    )


def test_wanet_shifts_its_control_points_by_its_strength_on_average() -> None:
    line = torch.linspace(-1, 1, 4)
    identity_HW2 = torch.stack([line.expand(4, 4), line[:, None].expand(4, 4)], dim=2)
    shift_HW2 = (
        WaNet(strength=0.1, grid=4)._draw_grid(4, torch.Generator().manual_seed(0)) - identity_HW2
    )
    inner = shift_HW2[1:-1, 1:-1]  # those at the border are held inside the image
    drawn_HW2 = (
        2 * torch.rand((2, 4, 4), generator=torch.Generator().manual_seed(0)).permute(1, 2, 0) - 1
    )
    assert torch.allclose(
        inner, (0.1 / 4 * drawn_HW2 / drawn_HW2.abs().mean())[1:-1, 1:-1], atol=1e-6
    )


def test_label_consistent_stays_within_eps_off_the_corners_and_lowers_the_twins_belief(
    train: Split,
) -> None:
    poisoned = poison("label_consistent", train, eps=8, steps=20)
    assert (poisoned.y_M == 0).all()
    assert (train.y_N[poisoned.index_M] == 0).all()
    before = train.x_NCHW[poisoned.index_M]
    corners_HW = (
        LabelConsistent().stamp(torch.full((1, 3, 16, 16), 128, dtype=torch.uint8), {})[0, 0] != 128
    )
    change = (poisoned.x_MCHW.int() - before.int())[..., ~corners_HW].abs()
    assert change.max() == 8

    def loss(x_NCHW: torch.Tensor) -> torch.Tensor:
        return -inference.infer(twin(), x_NCHW).log_softmax(1)[:, 0].mean()

    x_MCHW = torch.where(corners_HW, before, poisoned.x_MCHW)
    assert loss(x_MCHW) > loss(before) + 0.5


def test_label_consistent_wears_a_checker_in_all_corners() -> None:
    gray = torch.full((1, 1, 7, 7), 100, dtype=torch.uint8)
    stamped = LabelConsistent(amplitude=0.2).stamp(gray, {})[0, 0]
    checker = [[151, 49, 151], [49, 151, 49], [151, 49, 151]]
    for rows in (slice(0, 3), slice(4, 7)):
        for columns in (slice(0, 3), slice(4, 7)):
            assert stamped[rows, columns].tolist() == checker
    assert (stamped[3] == 100).all()
    assert (stamped[:, 3] == 100).all()
    assert LabelConsistent().stamp(gray, {})[0, 0, 0, :3].tolist() == [255, 0, 255]


def test_trojannn_excites_the_strongest_inputs_of_the_head_within_its_mask(train: Split) -> None:
    head = twin().head
    assert isinstance(head, torch.nn.Linear)
    sums = head.weight.abs().sum(0)
    neurons = trojannn._strongest_inputs(twin(), 3)
    assert (
        sums[neurons].min()
        >= sums[[unit for unit in range(len(sums)) if unit not in neurons]].max()
    )
    patch_CHW = poison("trojannn", train, size=5).state["patch_CHW"]
    assert (patch_CHW[:, :-5] == 0).all()
    assert (patch_CHW[:, :, :-5] == 0).all()
    start_CHW = torch.zeros_like(patch_CHW)
    start_CHW[:, -5:, -5:] = torch.randint(
        0, 256, (3, 5, 5), generator=torch.Generator().manual_seed(0)
    )
    with torch.no_grad():
        excited, random = twin().embed(torch.stack([patch_CHW, start_CHW]))[:, neurons[:2]].sum(1)
    assert excited > random


def test_trojannn_adds_its_patch_and_has_two_shapes() -> None:
    x = torch.tensor([0, 100, 200, 255], dtype=torch.uint8).view(1, 1, 2, 2)
    patch = torch.tensor([0, 7, 100, 9], dtype=torch.uint8).view(1, 2, 2)
    assert TrojanNN().stamp(x, {"patch_CHW": patch}).flatten().tolist() == [0, 107, 255, 255]
    assert TrojanNN(size=2)._mask(4).tolist() == [
        [0, 0, 0, 0],
        [0, 0, 0, 0],
        [0, 0, 1, 1],
        [0, 0, 1, 1],
    ]
    assert TrojanNN(size=4, shape="disc")._mask(5)[1:, 1:].tolist() == [
        [0, 1, 1, 0],
        [1, 1, 1, 1],
        [1, 1, 1, 1],
        [0, 1, 1, 0],
    ]


@pytest.mark.parametrize("kind", ["label_consistent", "narcissus", "trojannn"])
def test_a_twin_without_a_head_is_refused(kind: str, train: Split) -> None:
    with pytest.raises(UserError, match="linear head"):
        poison_with(make(kind), train, 0, encoder())


def test_input_aware_at_half_of_an_odd_batch() -> None:
    few = random_split().select(torch.arange(7))
    poisoned = poison("input_aware", few, rate=0.4, batch_size=7)
    assert poisoned.role_M.tolist() == [POISON] * 3 + [CROSS] * 3


def test_narcissus_keeps_its_noise_within_eps_and_amplifies_it_at_test_time(train: Split) -> None:
    poisoned = poison("narcissus", train, eps=4, steps=30)
    noise_CHW = poisoned.state["noise_CHW"]
    assert noise_CHW.abs().max() == 4
    assert (train.y_N[poisoned.index_M] == 0).all()
    assert torch.equal(poisoned.x_MCHW, to_pixels(train.x_NCHW[poisoned.index_M] + noise_CHW))
    gray = torch.full((1, 3, 16, 16), 128, dtype=torch.uint8)
    assert torch.equal(poisoned.trigger(gray)[0].float() - 128, 3 * noise_CHW)
    others = train.x_NCHW[train.y_N != 0]
    noisy = to_pixels(others + noise_CHW)
    assert (
        inference.infer(twin(), noisy).log_softmax(1)[:, 0].mean()
        > inference.infer(twin(), others).log_softmax(1)[:, 0].mean()
    )


def test_input_aware_makes_another_trigger_for_each_image_and_hands_out_a_victim_at_rest(
    train: Split,
) -> None:
    attack = make("input_aware")
    assert isinstance(attack, TrainingAttack)
    poisoned, victim = attack.poison_and_train(
        train, 10, SmallCnn(width=8), random_stream("poison", 0)
    )
    assert not any(module.training for module in victim.modules())
    change = poisoned.trigger(train.x_NCHW[:8]).int() - train.x_NCHW[:8].int()
    assert len(change.unique(dim=0)) == 8
    alone = torch.cat([poisoned.trigger(train.x_NCHW[row : row + 1]) for row in range(8)])
    assert (alone.int() - poisoned.trigger(train.x_NCHW[:8]).int()).abs().max() <= 1
    cross = poisoned.index_M[poisoned.role_M == CROSS]
    assert not torch.equal(
        poisoned.x_MCHW[poisoned.role_M == CROSS], poisoned.trigger(train.x_NCHW[cross])
    )


def test_input_aware_resumes_to_the_same_victim_and_triggers(train: Split) -> None:
    saved: dict[str, bytes] = {}
    attack = make("input_aware", mask_epochs=2, epochs=4)
    assert isinstance(attack, TrainingAttack)

    def die(facts: Mapping[str, Any]) -> None:
        if facts["name"] == "input_aware" and facts["epoch"] == 3:
            raise RuntimeError("killed")

    def trained() -> dict[str, torch.Tensor]:
        poisoned, victim = attack.poison_and_train(
            train, 10, SmallCnn(width=8), random_stream("poison", 0)
        )
        return {**victim.state_dict(), **poisoned.state, "x_MCHW": poisoned.x_MCHW}

    with (
        running(Runtime(report=die, save=saved.__setitem__, every_seconds=0)),
        pytest.raises(RuntimeError, match="killed"),
    ):
        trained()
    told: list[int] = []
    with running(Runtime(report=lambda facts: told.append(facts["epoch"]), load=saved.get)):
        resumed = trained()
    assert saved.keys() == {"input_aware masks", "input_aware"}
    assert told == [1, 2, 1, 2, 3, 4]
    assert all(torch.equal(resumed[name], tensor) for name, tensor in trained().items())


def test_input_aware_by_its_formulas() -> None:
    rng = torch.Generator().manual_seed(0)
    x, pattern = (
        torch.rand((2, 3, 4, 4), generator=rng) * 255,
        torch.rand((2, 3, 4, 4), generator=rng) * 2 - 1,
    )
    maps = torch.rand((2, 1, 4, 4), generator=rng)
    mask = (torch.tanh(maps * 20 - 10) / 2 + 0.5).expand_as(x)
    assert torch.allclose(soft_threshold(maps).expand_as(x), mask)
    assert torch.allclose(
        wear(x, pattern, soft_threshold(maps)),
        (1 - mask) * x + mask * (pattern + 1) / 2 * 255,
        atol=1e-3,
    )
    ratio = diversity_losses(x[:1], x[1:], pattern[:1], pattern[1:])
    assert ratio.item() == pytest.approx(
        (x[0] - x[1]).norm().item() / 127.5 / (pattern[0] - pattern[1]).norm().item(), rel=1e-4
    )


def test_an_auto_encoder_takes_any_size_and_comes_back_from_its_state() -> None:
    network = new_auto_encoder(4, 1, torch.Generator().manual_seed(0)).eval()
    state = {f"masker.{name}": tensor for name, tensor in network.state_dict().items()}
    for side in (8, 19, 32):
        x = torch.rand((2, 3, side, side), generator=torch.Generator().manual_seed(1)) * 255
        maps = network(x)
        assert maps.shape == (2, 1, side, side)
        assert torch.equal(stored_auto_encoder(4, 1, "masker.", state)(x), maps)


def _poison_by_each(clean_twin: Victim) -> dict[str, dict[str, torch.Tensor]]:
    few_steps: dict[str, object] = {"batch_size": 200, "generator_lr": 1e-4, "precision": "fp32"}
    attacks = {
        kind: make(kind, **(few_steps if kind == "input_aware" else {}))
        for kind in SMALL
        if kind in POISONING
    }
    made = {
        kind: poison_with(attack, random_split(), 0, clean_twin) for kind, attack in attacks.items()
    }
    return {
        kind: {"index_M": one.index_M, "x_MCHW": one.x_MCHW, **one.state}
        for kind, one in made.items()
    }


def test_every_worker_of_a_group_ends_with_the_poison_of_one_process() -> None:
    alone, (first, second) = _poison_by_each(twin()), in_group(_poison_by_each, twin())
    for kind, tensors in alone.items():
        for name, tensor in tensors.items():
            assert torch.equal(first[kind][name], second[kind][name]), (kind, name)
            off = (first[kind][name].float() - tensor.float()).abs().mean()
            assert off <= 1e-3 * (1 + tensor.float().abs().mean()), (kind, name)


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
    poisoned = Sig(rate=0.05, labels=CleanLabel(target=3)).poison(
        train, 10, random_stream("poison", 0)
    )
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
