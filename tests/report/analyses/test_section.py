"""The section of the report about analyses: who is drawn, and what becomes a table."""

from pathlib import Path

import pandas as pd
import pytest

from raybd.report.analyses.figure import victims
from raybd.report.analyses.section import MOST_ROWS, MOST_VICTIMS, drawing, find_tools
from raybd.report.site import write_report
from raybd.results.store import Store
from tests.report.analyses.stored import rows, write
from tests.report.test_report import HOSTILE, Page, row

CURVE = {"step": [0, 1], "attack_success": [0.9, 1.0], "clean_accuracy": [0.9, 0.8]}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store with one cell: without cells there is no report."""
    store = Store(str(tmp_path))
    store.write_cell(row("u0", "badnets", "none", "none", 0, clean_accuracy=0.9))
    return store


def html(store: Store) -> str:
    return Path(write_report(store)).read_text(encoding="utf-8")


def test_a_store_without_analyses_has_no_section(store: Store) -> None:
    assert find_tools(store) == []
    assert 'id="analyses"' not in html(store)


def test_the_victim_its_repair_and_its_twin_are_lines_of_one_picture(store: Store) -> None:
    write(store, "relearning", rows(CURVE))
    write(store, "relearning", rows(CURVE, "repair", method="fine_tune"))
    write(store, "relearning", rows(CURVE, "twin"))
    (tool,) = find_tools(store)
    (group,) = tool.groups
    assert group.name == "badnets on digits, small_cnn, seed 0"
    success = group.figures[0].svg
    assert all(f">{name}<" in success for name in ("victim", "after fine_tune", "clean twin"))
    # The page has the pictures as they are, and a link to them.
    page = html(store)
    assert success in page and 'href="#analysis-0"' in page


def test_victims_stand_before_defended_ones_and_the_twin_is_last() -> None:
    frame = pd.concat(
        [
            rows(CURVE, "twin"),
            rows(CURVE, "repair", method="nad", victim="aaaaaaaa"),
            rows(CURVE, "repair", method="nad", victim="bbbbbbbb"),
            rows(CURVE),
        ]
    )
    names = [name for name, _ in victims(frame)]
    assert names == ["victim", "after nad (aaaaaa)", "after nad (bbbbbb)", "clean twin"]


def test_each_attack_and_seed_has_pictures_of_its_own(store: Store) -> None:
    for attack in ("badnets", "blended"):
        write(store, "relearning", rows(CURVE, attack=attack))
    (tool,) = find_tools(store)
    assert [group.name.split()[0] for group in tool.groups] == ["badnets", "blended"]


def test_only_the_first_victims_are_drawn_and_the_page_says_how_many_more_there_are(
    store: Store,
) -> None:
    for number in range(MOST_VICTIMS + 2):
        write(store, "relearning", rows(CURVE, attack=f"attack{number:02}"))
        write(store, "relearning", rows(CURVE, "twin", attack=f"attack{number:02}"))
    (tool,) = find_tools(store)
    assert len(tool.groups) == MOST_VICTIMS
    assert tool.left == 2
    # Twins do not count, and are all there.
    assert all("clean twin" in group.figures[0].svg for group in tool.groups)
    assert "2 more victims in the store are not shown" in Page(html(store)).text


def test_a_tool_without_a_drawing_is_shown_as_a_table(store: Store) -> None:
    frame = rows(
        {
            "what": [f"row {number}" for number in range(MOST_ROWS + 1)],
            "long": ["x" * 99] * (MOST_ROWS + 1),
        }
    )
    write(store, "mypkg.tool", frame)
    found = Page(html(store))
    assert "row 0" in found.text and f"row {MOST_ROWS - 1}" in found.text
    assert f"row {MOST_ROWS}" not in found.text and "x" * 50 not in found.text
    assert f"{MOST_ROWS} of {MOST_ROWS + 1} rows" in found.text


def test_a_table_that_lacks_what_the_drawing_needs_is_shown_as_it_is(store: Store) -> None:
    write(store, "relearning", rows({"step": [0, 1]}))
    (group,) = find_tools(store)[0].groups
    assert not group.figures
    assert group.rows is not None and list(group.rows["step"]) == [0, 1]


@pytest.mark.parametrize("name", ["figure", "section", "nowhere", "my.tool", "..", ""])
def test_what_has_no_file_that_draws_has_no_drawing(name: str) -> None:
    assert drawing(name) is None


def test_names_from_a_table_never_become_markup(store: Store) -> None:
    frame = rows({**CURVE, "layer": [HOSTILE] * 2}, "repair", method=HOSTILE, attack=HOSTILE)
    write(store, "relearning", frame)
    write(store, "mypkg.tool", frame)
    page = html(store)
    assert "<script>alert" not in page and page.count("</script>") == 2
