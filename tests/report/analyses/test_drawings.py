"""Drawings of tools about units: made of real tables, and one scale for a victim and its twin."""

import re
from functools import cache
from xml.etree import ElementTree

import pandas as pd
import pytest
import torch

import raybd.report.analyses as drawings
from raybd.registry import method_class, names
from raybd.report.analyses.figure import Figure
from raybd.report.analyses.section import drawing
from raybd.types.methods import Analysis
from tests.analyses.by_hand import dark_and_patched
from tests.analyses.given import given
from tests.report.analyses.stored import about, rows
from tests.small_scene import small_scene, stream

TOOLS = (
    "activation_distribution",
    "embedding_drift",
    "feature_map",
    "lipschitz",
    "network",
    "neuron_activation",
    "quality",
    "relearning",
    "separability",
    "tac",
    "top_images",
)


@cache
def table(tool: str) -> pd.DataFrame:
    """What a tool says of an untrained victim, as its own twin, too."""
    model, _, clean = small_scene()
    pairs = dark_and_patched(24, side=16)
    fields = {"images": 4} if tool == "relearning" else {}
    method = method_class("analyses", tool).model_validate(fields)
    assert isinstance(method, Analysis)
    found = method.analyse(given(model, pairs, clean, twin=model), stream()).to_pandas()
    parts = [
        pd.concat([pd.DataFrame(about(len(found), stage)), found], axis=1)
        for stage in ("victim", "twin")
    ]
    return pd.concat(parts, ignore_index=True)


def draw(tool: str, frame: pd.DataFrame) -> list[Figure]:
    found = drawing(tool)
    assert found is not None
    return found(frame)


@pytest.mark.parametrize("tool", TOOLS)
def test_each_picture_is_sound_and_says_what_it_shows(tool: str) -> None:
    figures = draw(tool, table(tool).copy())
    assert figures
    for figure in figures:
        root = ElementTree.fromstring(figure.svg)
        assert root[0].text and figure.title and figure.caption.endswith(".")
        # A picture of 100 kB for each victim would make a page of hundreds of them slow.
        assert len(figure.svg) < 150_000
        # The letters of an image may be any.
        assert "nan" not in re.sub('base64,[^"]*', "", figure.svg)


def test_each_tool_of_this_page_has_a_drawing() -> None:
    assert set(TOOLS) <= set(names("analyses"))
    assert drawings.__doc__


def ticks(figure: Figure) -> list[str]:
    """The numbers at both axes."""
    return re.findall(r"<text[^>]*--dim[^>]*>([^<]*)<", figure.svg)


@pytest.mark.parametrize("tool", ["tac", "neuron_activation", "lipschitz"])
def test_a_victim_and_its_twin_have_one_scale(tool: str) -> None:
    frame = table(tool).copy()
    numeric = ["tac", "clean_mean", "stamped_mean", "z"]
    columns = [name for name in numeric if name in frame]
    frame[columns] = frame[columns].where(frame["stage"] == "victim", frame[columns] / 100)
    one, other = draw(tool, frame)
    assert "clean twin" in other.title and ticks(one) == ticks(other)


def test_feature_maps_of_a_twin_that_reacts_less_are_paler() -> None:
    maps = [[0.0, 0.0, 0.0, 4.0], [0.0, 0.0, 0.0, 8.0]]
    columns = {"layer": ["3"] * 2, "unit": [0, 0], "stamped": [False, True], "change": [4.0, 4.0]}
    size = {"h": [2, 2], "w": [2, 2]}
    victim = rows({**columns, **size, "map": maps})
    twin = rows({**columns, **size, "map": [[v / 8 for v in one] for one in maps]}, "twin")
    strong, weak = draw("feature_map", pd.concat([victim, twin], ignore_index=True))
    # With one scale the pictures differ; each with its own, they would be equal.
    assert strong.svg.split("href=")[2] != weak.svg.split("href=")[2]


def test_the_units_that_the_trigger_excites_are_named() -> None:
    frame = rows(
        {
            "layer": ["3"] * 3,
            "unit": [0, 1, 2],
            "clean_mean": [1.0, 2.0, 3.0],
            "stamped_mean": [1.0, 0.0, 3.0],
            "cohen_d": [0.1, -2.0, None],
        }
    )
    (figure,) = draw("neuron_activation", frame)
    assert figure.caption == "The trigger moves unit 1 most: 2.00 standard deviations."
    # Sorted by what they show without the trigger.
    assert re.findall(r"<title>(\d), without trigger", figure.svg) == ["2", "1", "0"]


def test_triggered_images_lie_below_all_classes() -> None:
    frame = rows(
        {
            "layer": ["3"] * 4,
            "unit": [0, 0, 1, 1],
            "class": [0, 1, 0, 1],
            "count": [3, 1, 0, 4],
            "entropy": [0.5, 0.5, 0.0, 0.0],
        }
    )
    (figure,) = draw("activation_distribution", frame)
    words = re.findall(r"<title>(\d), ([^:]*): ([\d.]+)</title>", figure.svg)
    assert words[:2] == [("1", "with trigger", "1"), ("0", "with trigger", "0.25")]


def test_a_red_frame_is_a_triggered_image() -> None:
    pixels = torch.zeros(3 * 4, dtype=torch.uint8).numpy()
    frame = rows(
        {
            "layer": ["3"] * 3,
            "unit": [5, 5, 6],
            "rank": [0, 1, 0],
            "stamped": [True, False, True],
            "share": [0.5, 0.5, 1.0],
            "pixels": [pixels, pixels, None],
            "height": [2] * 3,
            "width": [2] * 3,
        }
    )
    (figure,) = draw("top_images", frame)
    assert figure.svg.count("<image") == 2
    assert figure.svg.count("stroke:var(--poison") == 1
    assert "unit 5, 50%" in figure.svg and "unit 6" not in figure.svg
    assert "of 2 units, 1 prefer it" in figure.caption


def test_without_a_trigger_bounds_are_drawn_alone() -> None:
    frame = table("lipschitz").copy()
    frame["tac"] = float("nan")
    figures = draw("lipschitz", frame)
    assert all(figure.title.startswith("Lipschitz bounds:") for figure in figures)
