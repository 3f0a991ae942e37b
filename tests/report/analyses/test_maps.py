"""Pictures of embeddings, maps and surfaces: what they show of small tables."""

import importlib

import numpy as np
import pandas as pd
import pytest

from raybd.report.analyses.figure import Figure
from tests.report.analyses.stored import rows


def draw(tool: str, frame: pd.DataFrame) -> list[Figure]:
    found: list[Figure] = importlib.import_module(f"raybd.report.analyses.{tool}").draw(frame)
    return found


@pytest.mark.parametrize("tool", ["tsne", "umap"])
def test_a_cloud_has_its_classes_and_poison_apart(tool: str) -> None:
    cloud = {
        "role": ["clean", "clean", "poison", "cross"],
        "true": [0, 1, None, None],
        "given": [0, 1, 0, 1],
        "stamped": [False, False, True, False],
        "u": [0.0, 1, 2, 3],
        "v": [0.0, 1, 2, 3],
        "trustworthiness": [0.97] * 4,
    }
    first, twin = draw(tool, pd.concat([rows(cloud), rows(cloud, "twin")]))
    assert "victim" in first.title and "clean twin" in twin.title
    assert all(f">{name}<" in first.svg for name in ("class 0", "class 1", "poison", "cross"))
    assert ">class 2<" not in first.svg
    assert "0.97" in first.caption


def maps(mass: float) -> dict[str, list[object]]:
    cases = [(stamped, output) for stamped in (False, True) for output in ("predicted", "wanted")]
    return {
        "index": [3] * 4,
        "stamped": [stamped for stamped, _ in cases],
        "output": [output for _, output in cases],
        "trigger_mass": [0.9, 0.1, 0.9, mass],
        "trigger_area": [0.25] * 4,
        "height": [2] * 4,
        "width": [2] * 4,
        "map": [np.array([1, -1, 0, 0], dtype=np.float16)] * 4,
    }


@pytest.mark.parametrize("tool", ["attribution", "gradcam"])
def test_maps_of_the_wanted_class_stand_in_a_sheet_with_their_shares(tool: str) -> None:
    frame = pd.concat([rows(maps(0.7)), rows(maps(np.nan), "twin")])
    shares, sheet, twin = draw(tool, frame)
    assert "25.0%" in shares.caption
    assert sheet.svg.count("<image") == twin.svg.count("<image") == 2
    assert ">0.10<" in sheet.svg and ">0.70<" in sheet.svg and ">0.90<" not in sheet.svg
    assert ">no map<" in twin.svg


def test_the_change_of_the_spectrum_by_the_trigger_is_a_map_of_each_victim() -> None:
    places = [(fy, fx) for fy in (-1, 0) for fx in (-1, 0)]
    spectrum = {
        "kind": ["clean"] * 4 + ["stamped"] * 4,
        "fy": [fy for fy, _ in places] * 2,
        "fx": [fx for _, fx in places] * 2,
        "value": [0.0] * 4 + [1.0, 2, 3, 4],
    }
    frame = pd.concat([rows(spectrum), rows(spectrum, "twin")])
    profile, change, twin = draw("frequency_saliency", frame)
    assert ">victim, stamped<" in profile.svg
    # The changes themselves are the tooltips of the fields.
    assert all(f"{value}" in change.svg for value in (1, 2, 3, 4))
    assert "clean twin" in twin.title


def test_each_unit_has_its_image() -> None:
    found = {
        "unit": [7, 9],
        "objective": [1.5, 0.5],
        "height": [2, 2],
        "width": [2, 2],
        "image": [np.zeros(12, dtype=np.uint8)] * 2,
    }
    (figure,) = draw("feature_vis", rows(found))
    assert figure.svg.count("<image") == 2
    assert ">7: 1.5<" in figure.svg and ">9: 0.5<" in figure.svg


def test_surfaces_of_one_group_have_one_scale_and_missing_groups_no_picture() -> None:
    grid = {
        "a": [0.0, 0.0, 1.0, 1.0],
        "b": [0.0, 1.0, 0.0, 1.0],
        "group": ["clean"] * 4,
        "loss": [0.1, 1.0, 1.0, 2.0],
    }
    other = {**grid, "loss": [0.1, 1.0, 1.0, 50.0]}
    first, twin = draw("landscape", pd.concat([rows(grid), rows(other, "twin")]))
    assert "clean images: victim" in first.title and "clean twin" in twin.title
    assert ">20<" in first.svg or ">10<" in first.svg


def test_a_path_has_a_line_for_each_group() -> None:
    path = {
        "a": [0.0, 1.0] * 2,
        "group": ["clean"] * 2 + ["stamped_wanted"] * 2,
        "accuracy": [0.9, 0.9, 0.0, 1.0],
        "loss": [0.1, 0.1, 5.0, 0.1],
    }
    accuracy, loss = draw("twin_path", rows(path))
    assert ">clean images<" in accuracy.svg and ">stamped images, wanted label<" in loss.svg


def test_spectra_stand_on_a_log_axis_and_the_trace_is_said() -> None:
    told = {
        "group": ["clean"] * 5,
        "kind": ["trace", "eig", "density", "density", "density"],
        "x": [None, 0.0, -1.0, 0.0, 1.0],
        "value": [12.5, 3.0, 0.001, 1.0, 0.01],
        "se": [0.5, None, None, None, None],
    }
    flat = {"group": ["clean"] * 2, "kind": ["trace", "eig"], "x": [None, 0.0]}
    flat |= {"value": [0.0, 0.0], "se": [0.0, None]}
    density, largest = draw("hessian", pd.concat([rows(told), rows(flat, "twin")]))
    assert "victim 12.5 ± 0.5" in density.caption and "clean twin 0 ± 0" in density.caption
    assert "0.01" in density.svg
    assert "clean twin" in largest.svg
