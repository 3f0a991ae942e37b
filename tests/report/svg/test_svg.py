"""Plots: where numbers lie, what is left out, and that no text becomes markup."""

import base64
import io
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from raybd.report.svg import (
    Line,
    Picture,
    Plot,
    Points,
    bars,
    heat,
    histograms,
    images,
    lines,
    points,
)
from raybd.report.svg.plot import BOTTOM, LEFT, RIGHT, TOP
from raybd.report.svg.scale import Scale, extent, label
from raybd.report.svg.tones import paint, ramp

HOSTILE = "</svg><script>alert('x')</script>"
PLOT = Plot("A plot", "x", "y")
INNER = PLOT.width - LEFT - RIGHT
FLOOR = PLOT.height - BOTTOM


def elements(svg: str, tag: str) -> list[ElementTree.Element]:
    """The elements of a kind; the parser refuses what is no XML."""
    root = ElementTree.fromstring(svg)
    return [one for one in root.iter() if one.tag.endswith(f"}}{tag}")]


def words(svg: str) -> str:
    return " ".join(ElementTree.fromstring(svg).itertext())


def stroked(svg: str, tone: str) -> list[str]:
    """The paths of a line of this tone, without its dots."""
    return [
        str(one.get("d"))
        for one in elements(svg, "path")
        if f"stroke:{paint(tone)}" in str(one.get("style"))
        and "linecap" not in str(one.get("style"))
    ]


def shown(svg: str, tag: str = "image") -> np.ndarray:  # type: ignore[type-arg]
    uri = str(elements(svg, tag)[0].get("href"))
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))))


def test_numbers_lie_where_the_axes_say() -> None:
    svg = lines([Line("a", [0, 5, 10], [0, 1, 0.5], "poison")], PLOT)
    (path,) = stroked(svg, "poison")
    middle = LEFT + INNER / 2
    assert path == f"M{LEFT:.1f} {FLOOR:.1f}L{middle:.1f} {TOP:.1f}L{LEFT + INNER:.1f} " + (
        f"{(FLOOR + TOP) / 2:.1f}"
    )


def test_a_log_axis_gives_each_power_of_ten_the_same_room() -> None:
    svg = lines([Line("a", [1, 10, 100], [1, 1, 2], "poison")], Plot("p", log_x=True))
    places = [float(x) for x in re.findall(r"[ML]([\d.]+) ", stroked(svg, "poison")[0])]
    assert places[1] - places[0] == pytest.approx(places[2] - places[1], abs=0.2)


@pytest.mark.parametrize(("log", "missing"), [(False, np.nan), (False, np.inf), (True, 0.0)])
def test_a_line_breaks_where_a_number_is_missing(log: bool, missing: float) -> None:
    y = [1, 2, missing, 3, 4]
    svg = lines([Line("a", range(5), y, "poison")], Plot("p", log_y=log))
    assert stroked(svg, "poison")[0].count("M") == 2


def test_a_given_range_goes_before_that_of_the_numbers() -> None:
    plot = Plot("p", x_range=(0, 1), y_range=(0, 4))
    (path,) = stroked(lines([Line("a", [0, 1], [1, 2], "poison")], plot), "poison")
    assert path.startswith(f"M{LEFT:.1f} {FLOOR - (FLOOR - TOP) / 4:.1f}L")


def test_a_band_goes_there_and_back() -> None:
    svg = lines([Line("a", [0, 1], [1, 1], "poison", low=[0, 0], high=[2, 2])], PLOT)
    (band,) = [str(p.get("d")) for p in elements(svg, "path") if str(p.get("d")).endswith("Z")]
    right = LEFT + INNER
    assert band == f"M{LEFT}.0 {TOP}.0L{right}.0 {TOP}.0L{right}.0 {FLOOR}.0L{LEFT}.0 {FLOOR}.0Z"


def test_marked_points_are_drawn_last_and_missing_ones_not_at_all() -> None:
    svg = points([Points("m", [1, np.nan], [1, 1], "ink"), Points("a", [0, 2], [0, 2])], PLOT)
    dots = [one for one in elements(svg, "path") if "linecap" in str(one.get("style"))]
    assert [str(one.get("d")).count("M") for one in dots] == [2, 1]
    assert "--ink" in str(dots[-1].get("style"))
    # In the order that was asked for, the legend names both.
    assert re.search(r"\bm\b.*\ba\b", words(svg))


def test_few_points_say_what_they_are() -> None:
    svg = points([Points("a", [1, 2, 3], [1, np.nan, 3], names=["one", "two", "three"])], PLOT)
    assert [one[0].text for one in elements(svg, "circle")] == ["one", "three"]


def heights(svg: str) -> list[float]:
    return [float(str(one.get("height"))) for one in elements(svg, "rect") if len(one)]


def test_bars_have_the_height_of_their_numbers_and_stand_on_zero() -> None:
    svg = bars(["g", "h"], {"a": [1, np.nan], "b": [2, 4]}, PLOT)
    whole = FLOOR - TOP
    assert heights(svg) == pytest.approx([whole / 4, whole / 2, whole], abs=0.1)
    # Without a zero in the range, differences would look like ratios.
    assert heights(bars(["g", "h"], {"a": [2, 4]}, PLOT))[0] == pytest.approx(whole / 2, abs=0.1)


def test_stacked_bars_stand_on_each_other() -> None:
    svg = bars(["g"], {"a": [1], "b": [3]}, PLOT, stacked=True)
    low, high = (one for one in elements(svg, "rect") if len(one))
    assert float(str(low.get("y"))) == pytest.approx(FLOOR - (FLOOR - TOP) / 4, abs=0.1)
    assert float(str(high.get("y"))) + float(str(high.get("height"))) == pytest.approx(
        float(str(low.get("y"))), abs=0.2
    )


def test_a_histogram_counts_shares_of_each_sample() -> None:
    # Two of four numbers in the first of two bins, however many the other sample has.
    svg = histograms({"a": [0, 0, 1, 1, np.nan], "b": [1] * 100}, PLOT, bins=2)
    a, b = (str(one.get("d")) for one in elements(svg, "path")[1:])
    half = FLOOR - (FLOOR - TOP) / 2
    assert a.count(f"V{half:.1f}") == 2
    assert f"V{FLOOR:.1f}H" in b and f"V{TOP:.1f}H" in b


def test_a_heat_map_has_one_pixel_for_each_field_and_none_for_a_missing_one() -> None:
    svg = heat([[0.0, 1.0], [np.nan, 0.5]], PLOT)
    pixels = shown(svg)
    assert pixels.shape == (2, 2, 4)
    assert pixels[0, 0, :3].tolist() == ramp(np.array(0.0)).tolist()
    assert pixels[0, 1, :3].tolist() == ramp(np.array(1.0)).tolist()
    assert pixels[..., 3].tolist() == [[255, 255], [0, 255]]


def test_zero_is_white_on_a_two_sided_scale_and_missing_on_a_log_one() -> None:
    assert shown(heat([[-1.0, 0.0, 3.0]], PLOT, two_sided=True))[0, 1, :3].tolist() == [247] * 3
    assert shown(heat([[0.0, 1.0, 3.0]], PLOT, log=True))[0, :, 3].tolist() == [0, 255, 255]


def test_fields_of_a_small_map_say_their_numbers_and_a_column_can_be_marked() -> None:
    svg = heat(
        [[1, 2], [3, 4]], PLOT, rows=["r", "s"], columns=["t", "u"], marked=[1], numbers=True
    )
    assert "s, u, 4" in words(svg)
    framed = [one for one in elements(svg, "rect") if "--poison" in str(one.get("style"))]
    assert len(framed) == 1


def test_a_sheet_shows_the_pixels_as_they_are() -> None:
    pixels = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
    svg = images([[Picture(pixels, "seven", "poison"), Picture(pixels)]], PLOT, names=["row"])
    assert np.array_equal(shown(svg), pixels)
    assert "seven" in words(svg) and "row" in words(svg)
    assert len([one for one in elements(svg, "rect") if "--poison" in str(one.get("style"))]) == 1
    # Grey images have no axis for channels, or one of length 1.
    grey = images([[Picture(pixels[..., :1])]], PLOT)
    assert np.array_equal(shown(grey), pixels[..., 0])
    with pytest.raises(ValueError, match="uint8"):
        images([[Picture(pixels / 255)]], PLOT)


def test_no_text_becomes_markup_and_nothing_runs() -> None:
    plot = Plot(HOSTILE, HOSTILE, HOSTILE, description=HOSTILE)
    one = np.zeros((2, 2), dtype=np.uint8)
    drawn = [
        lines([Line(HOSTILE, [0, 1], [0, 1])], plot),
        points([Points(HOSTILE, [0, 1], [0, 1], names=[HOSTILE] * 2)], plot),
        bars([HOSTILE], {HOSTILE: [1], "b": [1]}, plot),
        heat([[1]], plot, rows=[HOSTILE], columns=[HOSTILE]),
        images([[Picture(one, HOSTILE)]], plot, names=[HOSTILE]),
        histograms({HOSTILE: [0, 1]}, plot),
    ]
    for svg in drawn:
        assert not elements(svg, "script") and "http" not in svg.replace(
            'xmlns="http://www.w3.org/2000/svg"', ""
        )
        # For screen readers: the first child is the title, whole.
        root = ElementTree.fromstring(svg)
        assert root.get("role") == "img" and root[0].text == HOSTILE and root[1].text == HOSTILE


@pytest.mark.parametrize("values", [[], [np.nan], [3.0], [0.0]])
def test_nothing_and_one_number_have_axes_too(values: list[float]) -> None:
    for svg in (
        lines([Line("a", values, values)], PLOT),
        points([Points("a", values, values)], PLOT),
        histograms({"a": values}, PLOT),
        bars(["g"] * len(values), {"a": values}, PLOT),
    ):
        assert "nan" not in svg and "inf" not in svg
        assert elements(svg, "title")


def test_ticks_are_round_numbers_in_the_range() -> None:
    assert Scale(0, 1, 0, 1).ticks() == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert Scale(-3, 7, 0, 1).ticks() == [-2, 0, 2, 4, 6]
    assert Scale(0.02, 3000, 0, 1, log=True).ticks() == [0.1, 1, 10, 100, 1000]
    assert Scale(2, 30, 0, 1, log=True).ticks() == [2, 5, 10, 20]
    assert [label(one) for one in (0, 0.25, 1e-5, 123456, 50000, 0.30000000001)] == (
        ["0", "0.25", "1e-5", "1.2e5", "5e4", "0.3"]
    )


def test_the_range_of_a_log_axis_holds_positive_numbers_alone() -> None:
    assert extent([[0, -1, 2, 8]], log=True) == (2, 8)
    assert extent([[2, 8]], zero=True) == (0, 8)
    assert extent([[2, 8]], log=True, zero=True) == (2, 8)
