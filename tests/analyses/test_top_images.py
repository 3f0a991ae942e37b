"""Top images: a unit that reads the patch prefers triggered images, one of darkness does not."""

import numpy as np
import pytest
import torch

from raybd.analyses.top_images import TopImages
from tests.analyses.by_hand import dark_and_patched, pairs_by_hand, victim
from tests.analyses.given import given
from tests.small_scene import images, stream

MODEL = victim(lambda x: x[:, -1:, -1:], lambda x: x[:, :1, :1])


def test_the_unit_of_the_patch_has_triggered_top_images_alone() -> None:
    pairs = dark_and_patched(6)
    tool = TopImages(layer="0", k=6)
    found = tool.analyse(given(MODEL, pairs), stream()).to_pandas()
    patch, light = found[found["unit"] == 0], found[found["unit"] == 1]
    assert patch["stamped"].all() and (patch["share"] == 1).all()
    # Equal activations keep the order of the images.
    assert list(patch["index"]) == [0, 1, 2, 3, 4, 5] and list(patch["value"]) == [1] * 6
    # The other unit likes light images, with and without the trigger, in turn.
    assert list(light["index"]) == [0, 0, 1, 1, 2, 2] and (light["share"] == 0.5).all()
    assert list(light["true"]) == [0, 0, 1, 1, 0, 0]
    assert list(light["rank"]) == list(range(6)) and light["value"].is_monotonic_decreasing


def test_half_of_all_images_wear_the_trigger() -> None:
    tool = TopImages(layer="0", k=12)
    found = tool.analyse(given(MODEL, dark_and_patched(6)), stream()).to_pandas()
    assert found["share"].tolist() == [0.5] * 24


def test_pixels_are_kept_for_the_units_with_most_triggered_images() -> None:
    pairs = dark_and_patched(6)
    found = TopImages(layer="0", k=2, shown=1).analyse(given(MODEL, pairs), stream()).to_pandas()
    assert found["pixels"].notna().tolist() == [True, True, False, False]
    shown = np.asarray(found["pixels"].iloc[1]).reshape(3, 4, 4)
    assert np.array_equal(shown, pairs.worn_MCHW[1].numpy())


def test_large_images_are_scaled_down_and_k_beyond_all_images_is_all_of_them() -> None:
    x_NCHW = torch.cat([images(1, side=20), 255 - images(1, side=20)])[..., :10]
    pairs = pairs_by_hand(x_NCHW, 255 - x_NCHW)
    found = TopImages(layer="0", k=9, side=10).analyse(given(MODEL, pairs), stream()).to_pandas()
    assert len(found) == 2 * 4
    assert set(zip(found["height"], found["width"], strict=True)) == {(10, 5)}
    first = found.iloc[0]
    whole = (pairs.worn_MCHW if first["stamped"] else pairs.x_MCHW)[first["index"]].float()
    expected = whole.view(3, 10, 2, 5, 2).mean((2, 4))
    assert np.asarray(first["pixels"]) == pytest.approx(expected.flatten().numpy(), abs=0.51)
