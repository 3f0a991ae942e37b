"""What would fail in every cell is found before anything is run."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from raybd.plan.file import parse
from raybd.plan.images import check_own_images
from raybd.plan.todo import make_plan
from raybd.results.store import Store
from raybd.types.errors import UserError
from tests.cli.in_process import raybd
from tests.tiny_cells import TINY


def test_canaries_that_the_trusted_images_do_not_suffice_for() -> None:
    asked = parse({**TINY, "canaries": {}})
    with pytest.raises(UserError, match=r"canaries: .* gives 13 canaries; at least 40 are needed"):
        asked.cells()
    assert parse({**TINY, "canaries": {"least": 10}}).cells()


FEW = [
    ("strip", {}, 2),
    ("spectral", {"reference": "trusted"}, 4),
    ("asset_inner", {}, 4),
    ("asset", {}, 4),
    ("beatrix", {}, 4),
]


@pytest.mark.parametrize(("kind", "fields", "fewest"), FEW, ids=[kind for kind, _, _ in FEW])
def test_a_detector_that_needs_more_trusted_images(
    kind: str, fields: dict[str, Any], fewest: int
) -> None:
    def cells(clean: int) -> list[str | None]:
        data = {"kind": "digits", "limit": 300, "test_limit": 50, "clean": clean}
        asked = parse({**TINY, "datasets": [data], "detectors": [{"kind": kind, **fields}]})
        return [cell.infeasible for cell in asked.cells() if cell.defense is not None]

    told = f"{kind} needs {fewest} trusted images: set `clean` of digits to {fewest} or more"
    assert cells(1) == cells(fewest - 1) == [told]
    assert cells(fewest) == [None]


@pytest.mark.parametrize("where", ["experiment", "attack"])
def test_a_name_that_makes_no_file(where: str) -> None:
    name = "x" * 200
    raw = {**TINY, "name": name if where == "experiment" else "tiny"}
    if where == "attack":
        raw["attacks"] = [{"kind": "badnets", "name": name}]
    with pytest.raises(UserError, match="120"):
        try:
            parse(raw)
        except UserError as error:
            raise UserError(f"{error.what} {error.hint}", "") from error


def test_a_detector_that_lacks_its_verb() -> None:
    with pytest.raises(UserError) as found:
        parse({**TINY, "detectors": [{"kind": "tests.methods.verbless", "name": "verbless"}]})
    assert "detectors[0].kind" in found.value.what
    assert "lacks the method score" in found.value.what
    assert "raybd.types.methods.Detector" in found.value.hint


@pytest.mark.parametrize(
    "attack",
    [
        {"kind": "adaptive_blend", "rate": 0.5, "cover_rate": 0.6},
        {"kind": "wanet", "rate": 0.4, "cross_ratio": 2.0},
        {"kind": "tact", "rate": 0.05, "cover_rate": 0.9},
    ],
    ids=lambda attack: attack["kind"],
)
def test_covers_that_no_images_are_left_for(attack: dict[str, Any]) -> None:
    cells = parse({**TINY, "attacks": [attack]}).cells()
    assert all("are left for it (at most" in str(cell.infeasible) for cell in cells)


@pytest.mark.parametrize("kind", ["adaptive_blend", "wanet", "tact"])
def test_covers_that_there_are_images_for(kind: str) -> None:
    cells = parse({**TINY, "attacks": [{"kind": kind, "rate": 0.05}]}).cells()
    assert not any(cell.infeasible for cell in cells)


def image(folder: Path, name: str, value: int, side: int = 8, broken: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    pixels = np.random.default_rng(value).integers(0, 255, (side, side, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    data = buffer.getvalue()
    (folder / name).write_bytes(data[: len(data) // 2] if broken else data)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    root = tmp_path / "my images"
    for part in ("train", "test"):
        for label in ("cat", "dog"):
            for number in range(4):
                image(root / part / label, f"{number}.png", number)
    return root


def experiment(images: Path) -> dict[str, Any]:
    data = {"kind": "image_folder", "path": str(images), "clean": 2}
    attack = {"kind": "badnets", "rate": 0.5}
    return {**TINY, "datasets": [data], "attacks": [attack]}


@pytest.mark.parametrize("fault", ["size", "broken"])
def test_a_dry_run_reads_the_users_own_images(
    fault: str,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text(
        "name: mine\n"
        f"datasets: [{{kind: image_folder, path: '{images}', clean: 2}}]\n"
        "attacks: [{kind: badnets, rate: 0.5}]\n"
        "trainers: [{kind: supervised, network: small_cnn, epochs: 1}]\n"
    )
    arguments = ("run", config, "--dry-run", "--store", tmp_path / "store")
    assert raybd(monkeypatch, *arguments) == 0
    capsys.readouterr()

    image(images / "test" / "dog", "3.png", 9, 9 if fault == "size" else 8, fault == "broken")
    assert raybd(monkeypatch, *arguments) == 2
    told = capsys.readouterr().err
    assert str(images / "test" / "dog" / "3.png") in told
    assert ("Set `size`" if fault == "size" else "Replace or remove it") in told
    assert "object at 0x" not in told


def test_images_that_no_stage_needs_any_more_are_not_read(images: Path, tmp_path: Path) -> None:
    plan = make_plan(parse(experiment(images)), Store(str(tmp_path / "store")))
    check_own_images(plan)
    (images / "train/cat/0.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"0\.png"):
        check_own_images(plan)
    done = parse({**experiment(images), "attacks": [{"kind": "sig", "rate": 0.9}]})
    check_own_images(make_plan(done, Store(str(tmp_path / "store"))))
