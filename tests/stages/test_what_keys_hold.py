"""A change of anything that changes a number gives the results another key."""

import copy
from typing import Any

import pytest

from raybd.cells.cell import Cell
from raybd.cells.data import data_key
from raybd.cells.stage import random_stream
from raybd.plan.file import parse
from tests.tiny_cells import TINY

ASKED: dict[str, Any] = {
    **TINY,
    "attacks": [
        {"kind": "blended", "side_data": {"kind": "digits", "limit": 20, "clean": 10}},
    ],
}
CHANGES: list[tuple[tuple[str | int, ...], Any, tuple[str, ...]]] = [
    (("seeds", 0), 1, ("poison", "victim", "features", "score", "removal")),
    (("datasets", 0, "limit"), 290, ("poison", "victim", "features", "score", "removal")),
    (("datasets", 0, "test_limit"), 40, ("poison", "victim", "features", "score", "removal")),
    (("datasets", 0, "split_seed"), 1, ("poison", "victim", "features", "score", "removal")),
    (("attacks", 0, "alpha"), 0.3, ("poison", "victim", "features", "score", "removal")),
    (
        ("attacks", 0, "side_data", "limit"),
        30,
        ("poison", "victim", "features", "score", "removal"),
    ),
    (("trainers", 0, "lr"), 0.02, ("victim", "features", "score", "removal")),
    (("trainers", 0, "network", "width"), 8, ("victim", "features", "score", "removal")),
    (("detectors", 0, "remove"), 0.2, ("score", "removal")),
]
"""Where an experiment changes, to what, and the stages whose results change with it."""
ALL = {"poison", "victim", "features", "score", "removal"}


def changed(place: tuple[str | int, ...], value: Any) -> Cell:
    """Return the defended cell of an experiment that was changed at one place."""
    raw: Any = copy.deepcopy({"seeds": [0], **ASKED})
    entry = raw
    for word in place[:-1]:
        entry = entry[word]
    entry[place[-1]] = value
    return parse(raw).cells()[-1]


@pytest.mark.parametrize(("place", "value", "names"), CHANGES, ids=lambda value: str(value)[:40])
def test_exactly_what_depends_on_a_change_has_another_key(
    place: tuple[str | int, ...], value: Any, names: tuple[str, ...]
) -> None:
    before = changed(("name",), "tiny").keys()
    after = changed(place, value).keys()
    assert set(before) == set(after) == ALL
    assert {name for name in ALL if before[name] != after[name]} == set(names)


def test_how_it_is_run_is_in_no_key() -> None:
    before = changed(("name",), "tiny").keys()
    for resources in ({"workers": 2}, {"time_limit": 100}, {"detectors": {"cpus_per_worker": 2}}):
        assert changed(("resources",), resources).keys() == before


def test_the_same_files_that_are_divided_in_another_way_are_other_data() -> None:
    method = changed(("name",), "tiny").dataset
    other = changed(("datasets", 0, "split_seed"), 1).dataset
    assert data_key(method, "files") != data_key(other, "files")
    assert data_key(method, "files") != data_key(method, "other files")
    assert data_key(method, "files") == data_key(method, "files")


def test_stage_seed_and_run_decide_the_random_numbers() -> None:
    drawn = [
        random_stream(stage, seed, run).initial_seed()
        for stage in ("victim", "score")
        for seed in (0, 1, 2)
        for run in (0, 1, 2)
    ]
    assert len(set(drawn)) == 18
    assert random_stream("score", 1).initial_seed() == random_stream("score", 1, 0).initial_seed()
