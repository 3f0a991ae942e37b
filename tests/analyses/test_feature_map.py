"""Feature maps: those of one pair, as the layer puts them out."""

import numpy as np
import pytest

from raybd.analyses.feature_map import FeatureMap
from raybd.types.errors import UserError
from tests.analyses.by_hand import grey, pairs_by_hand, victim
from tests.analyses.given import given
from tests.small_scene import stream

MODEL = victim(lambda x: x, lambda x: -2 * x)
PAIRS = pairs_by_hand(
    grey([[0, 0], [0, 0]], [[0.2, 0], [0, 0]]), grey([[0, 0], [0, 0]], [[0.2, 0], [0, 1]])
)


def test_both_maps_of_each_channel_and_their_change_are_as_by_hand() -> None:
    tool = FeatureMap(image=1)
    found = tool.analyse(given(MODEL, PAIRS), stream()).to_pandas()
    assert list(found["unit"]) == [0, 1, 0, 1]
    assert list(found["stamped"]) == [False, False, True, True]
    expected = [[0.2, 0, 0, 0], [-0.4, 0, 0, 0], [0.2, 0, 0, 1], [-0.4, 0, 0, -2]]
    assert np.stack(found["map"].to_list()).astype(float) == pytest.approx(
        np.array(expected), abs=1e-3
    )
    assert list(found["change"]) == pytest.approx([1, 2, 1, 2])
    assert set(found["h"]) == set(found["w"]) == {2}


def test_what_half_precision_cannot_hold_is_saturated() -> None:
    model = victim(lambda x: 1e6 * x)
    found = FeatureMap(image=1).analyse(given(model, PAIRS), stream()).to_pandas()
    assert found["map"].iloc[1].tolist() == [65504, 0, 0, 65504]


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"image": 2}, "image 2 of 2"),
        ({"layer": "2"}, "2 puts out no maps"),
        ({"layer": "features"}, "features puts out no maps"),
        ({"layer": "all"}, "no convolution"),
    ],
)
def test_what_is_not_there_is_one_clear_error(fields: dict[str, object], match: str) -> None:
    with pytest.raises(UserError, match=match):
        FeatureMap.model_validate(fields).analyse(given(MODEL, PAIRS), stream())
