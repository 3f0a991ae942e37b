"""The tutorials work as they stand, from an empty folder."""

from pathlib import Path

import pytest

from raybd.results.store import Store
from tests.docs.pages import TUTORIALS, blocks, follow

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_a_tutorial_does_what_it_says(page: Path, tmp_path: Path) -> None:
    assert any(block.language == "bash" for block in blocks(page))
    follow(page, tmp_path)
    for store in tmp_path.glob("results*"):
        assert set(Store(str(store)).cells()["status"]) <= {"ok"}
