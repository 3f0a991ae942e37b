"""Frequency saliency: the spectrum of the weights of linear logits."""

import math

import numpy as np
import pytest
import torch

from raybd.analyses.frequency_saliency import FrequencySaliency
from raybd.types.methods import Pairs
from tests.analyses.given import given, given_of
from tests.analyses.nets import linear_victim, some_pairs
from tests.shared_victims import DIGITS, SharedVictims
from tests.small_scene import stream


def test_linear_logits_have_the_spectrum_of_their_weights() -> None:
    # The first class is always the largest.
    weight = torch.randn((3, 4, 4), generator=stream(3))
    weight[:, 0, 0] += 9
    victim = linear_victim(torch.stack([weight.flatten(), -weight.flatten().abs() - 9]))
    table = FrequencySaliency().analyse(given(victim, some_pairs()), stream(1)).to_pandas()
    spectrum = np.log(1e-8 + np.abs(np.fft.ifft2(weight.numpy()))).mean(0)
    for kind, own in table.groupby("kind"):
        assert kind in ("clean", "stamped")
        for _, row in own.iterrows():
            expected = spectrum[int(row["fy"]) % 4, int(row["fx"]) % 4]
            assert row["value"] == pytest.approx(expected, abs=1e-4)
    assert sorted(set(table["fy"])) == [-2, -1, 0, 1]


def test_a_cosine_has_two_peaks() -> None:
    wave_W = torch.cos(2 * math.pi * 3 * torch.arange(8) / 8)
    weight = wave_W.expand(3, 8, 8).flatten()
    pairs = some_pairs(2, 8)
    # Images on which the wave itself has the larger logit.
    bright_MCHW = (127 + 100 * wave_W).to(torch.uint8).expand(2, 3, 8, 8)
    pairs = Pairs(bright_MCHW, bright_MCHW, pairs.y_M, pairs.wanted_M)
    victim = linear_victim(torch.stack([weight, -weight]))
    table = FrequencySaliency().analyse(given(victim, pairs), stream(1)).to_pandas()
    clean = table[table["kind"] == "clean"].sort_values("value", ascending=False)
    assert {(int(r.fy), int(r.fx)) for _, r in clean[:2].iterrows()} == {(0, 3), (0, -3)}
    assert clean["value"].iloc[1] == pytest.approx(math.log(0.5), abs=1e-3)
    # What is left is rounding.
    assert clean["value"].iloc[2] < math.log(1e-6)


def test_the_trigger_moves_the_spectrum_of_the_victim_and_not_of_the_twin(
    shared: SharedVictims,
) -> None:
    trained = shared.classifier(DIGITS, {"kind": "badnets", "rate": 0.1})
    twin = shared.classifier(DIGITS, {"kind": "none"}).victim
    moved = []
    for victim in (trained.victim, twin):
        table = FrequencySaliency(images=200).analyse(given_of(trained, victim), stream(1))
        values = table.to_pandas().groupby("kind")["value"].apply(np.array)
        moved.append(float(np.abs(values["stamped"] - values["clean"]).mean()))
    assert moved[0] > 2 * moved[1]
