"""Activation of units: a layer of two units by hand, and the three reductions."""

import pytest

from raybd.analyses.neuron_activation import NeuronActivation
from tests.analyses.by_hand import grey, pairs_by_hand, victim
from tests.analyses.given import given
from tests.small_scene import stream

PAIRS = pairs_by_hand(
    grey([[0, 0], [0, 0]], [[0.4, 0.4], [0.4, 0.4]]),
    grey([[0, 0], [0, 1]], [[0.4, 0.4], [0.4, 1]]),
)


def measured(**fields: object) -> dict[str, list[float]]:
    model = victim(lambda x: x, lambda x: 2 - 0 * x)
    table = NeuronActivation.model_validate({"layer": "0", **fields}).analyse(
        given(model, PAIRS), stream()
    )
    found: dict[str, list[float]] = table.to_pydict()
    return found


def test_means_deviations_and_effect_are_as_by_hand() -> None:
    found = measured()
    # Unit 0 shows 0 and .4 without the trigger, 1/4 and 2.2/4 with it; unit 1 always 2.
    assert found["unit"] == [0, 1] and found["layer"] == ["0", "0"]
    assert found["clean_mean"] == pytest.approx([0.2, 2])
    assert found["stamped_mean"] == pytest.approx([0.4, 2])
    assert found["clean_sd"] == pytest.approx([0.08**0.5, 0])
    assert found["stamped_sd"] == pytest.approx([0.045**0.5, 0])
    assert found["cohen_d"][0] == pytest.approx(0.2 / 0.0625**0.5)
    # A constant unit has no scale.
    assert found["cohen_d"][1] is None


@pytest.mark.parametrize(
    ("reduction", "clean", "stamped"),
    [("max", 0.2, 1.0), ("l2", (0 + 0.8) / 2, (1 + (3 * 0.16 + 1) ** 0.5) / 2)],
)
def test_a_map_is_reduced_as_the_field_says(reduction: str, clean: float, stamped: float) -> None:
    found = measured(reduction=reduction)
    assert found["clean_mean"][0] == pytest.approx(clean, abs=1e-6)
    assert found["stamped_mean"][0] == pytest.approx(stamped, abs=1e-6)
