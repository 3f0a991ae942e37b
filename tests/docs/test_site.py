"""The documentation is built without a warning, with a page for each method."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from raybd.registry import METHOD_ROLES, method_class, names
from tests.paths import REPO


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", folder]
    done = subprocess.run(
        command, cwd=REPO, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_each_method_has_a_page_with_all_its_fields(site: Path) -> None:
    for role in METHOD_ROLES:
        for kind in names(role):
            page = (site / "methods" / role / kind / "index.html").read_text(encoding="utf-8")
            for field in method_class(role, kind).model_fields:
                assert f"<td>{field}</td>" in page, f"{role}/{kind}: {field}"


@pytest.mark.slow
def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    loads = re.compile(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=\"(?:https?:)?//([^\"]+)")
    for page in site.rglob("*.html"):
        assert not loads.findall(page.read_text(encoding="utf-8")), page.relative_to(site)


@pytest.mark.slow
def test_each_attack_is_drawn_or_named_in_the_gallery(site: Path) -> None:
    page = (site / "methods" / "gallery" / "index.html").read_text(encoding="utf-8")
    drawn = {path.stem for path in (site / "methods" / "gallery").glob("*.png")}
    assert {"badnets", "blended", "refool", "sig", "wanet"} <= drawn
    left_out = page[page.rindex("Not drawn") :]  # it also stands in the table of contents
    for kind in names("attacks"):
        assert (f"../attacks/{kind}/" in left_out) != (kind in drawn), kind
    # A white patch of 3 of 64 x 64 pixels over a photograph.
    assert re.search(r"Largest change of a pixel 255 of 255, PSNR (2|3)\d\.\d dB", page)
