"""Repairs that train tell each epoch, and go on from the checkpoint of one."""

from typing import Any

import pytest

from raybd.training.runtime import Runtime, running
from raybd.types.models import Victim
from tests.contracts.test_repairs import SMALL, repair_of
from tests.small_scene import small_scene, stream
from tests.some_images import same_weights

TRAININGS: dict[str, dict[str, int]] = {
    "fine_tune": {"fine_tune": 2},
    "nad": {"nad teacher": 1, "nad": 2},
    "ft_sam": {"ft_sam": 2},
    "ibau": {"ibau": 2},
    "sau": {"sau": 2},
    "npd": {"npd first": 1, "npd": 2},
    "mcr": {"mcr end": 2, "mcr": 2},
}
"""Names of the trainings of a repair, and their epochs with the fields of the contract tests."""


def repaired(kind: str, runtime: Runtime) -> tuple[Victim, dict[str, float]]:
    victim, suspects, clean = small_scene()
    with running(runtime):
        defended = repair_of(kind).repair(victim, suspects, clean, stream(1))
    return defended.victim, dict(defended.facts)


@pytest.mark.parametrize("kind", TRAININGS)
def test_each_epoch_is_told_and_a_resumed_repair_ends_where_the_whole_one_does(kind: str) -> None:
    kept: dict[str, bytes] = {}
    told: list[Any] = []
    whole, facts = repaired(
        kind,
        Runtime(report=told.append, save=kept.setdefault, every_seconds=0),  # type: ignore[arg-type]
    )
    epochs = [(each["name"], each["epoch"], each["epochs"]) for each in told]
    expected = [
        (name, epoch, count)
        for name, count in TRAININGS[kind].items()
        for epoch in range(1, count + 1)
    ]
    assert epochs == expected
    assert SMALL[kind]

    assert kept
    resumed, again = repaired(kind, Runtime(load=kept.get))
    assert same_weights(whole, resumed)
    assert again == facts
