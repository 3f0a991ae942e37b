"""What is said of a field that is refused: the place, the bound, and a value that works."""

from pathlib import Path
from typing import Any

import pytest

from raybd.plan.file import parse
from raybd.reading.images import Images
from raybd.types.errors import UserError
from tests.image_files import png, write_parquet

BASE: dict[str, Any] = {
    "name": "x",
    "datasets": [{"kind": "digits"}],
    "attacks": [{"kind": "badnets"}],
    "trainers": [{"kind": "supervised", "network": "small_cnn"}],
}


def refused(**changed: Any) -> UserError:
    with pytest.raises(UserError) as found:
        parse({**BASE, **changed})
    return found.value


def test_a_label_map_without_its_name_is_told_which_there_are() -> None:
    error = refused(attacks=[{"kind": "badnets", "labels": {"target": 1}}])
    assert "attacks[0].labels.map: missing" in error.what
    assert "{map: all_to_one, target: 1}" in error.hint
    assert "all_to_all, clean_label" in error.hint
    # What the hint says can be used.
    parse({**BASE, "attacks": [{"kind": "badnets", "labels": {"map": "all_to_one", "target": 1}}]})


def test_a_label_map_with_another_name_is_told_the_nearest() -> None:
    error = refused(attacks=[{"kind": "badnets", "labels": {"map": "all_to_onne"}}])
    assert "attacks[0].labels.map: 'all_to_onne' is unknown" in error.what
    assert "Did you mean 'all_to_one'?" in error.hint


def test_a_place_ends_with_a_name() -> None:
    error = refused(trainers=[{"kind": "supervised", "network": {"kind": "small_cnn", "width": 0}}])
    assert "trainers[0].network.width:" in error.what
    for wrong in ({"kind": "vit_tiny", "dim": 10, "heads": 3}, {"kind": "small_cnn", "width": "x"}):
        error = refused(trainers=[{"kind": "supervised", "network": wrong}])
        assert ".:" not in error.what and ": :" not in error.what, error.what


def test_a_data_set_without_images_to_spare_is_told_so(tmp_path: Path) -> None:
    write_parquet(tmp_path / "few", [png(value) for value in range(3)], [0, 1, 2])
    asked = parse({**BASE, "datasets": [{"kind": "parquet", "path": str(tmp_path / "few")}]})
    with pytest.raises(UserError) as found:
        asked.cells()
    assert "no class has more than one" in found.value.what
    assert "0 or less" not in found.value.hint
    assert Images.model_fields["clean"].is_required() is False
