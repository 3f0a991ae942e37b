"""What a shell completes."""

from pathlib import Path
from typing import Any

import pytest
import typer

from raybd.cli import completion
from raybd.cli.commands import app
from tests.paths import REPO


def completed(config: Path, incomplete: str) -> list[str]:
    group: Any = typer.main.get_command(app)
    context = typer.Context(group.commands["run"])
    context.params["config"] = str(config)
    return completion.places(context, incomplete)


def test_roles_and_methods_are_completed() -> None:
    assert completion.roles("det") == ["detectors"]
    assert "badnets" in completion.methods("badn")
    assert completion.methods("spectra") == ["spectral"]
    assert completion.methods("detectors/spectra") == ["detectors/spectral"]
    assert "detectors/spectral" not in completion.methods("")


def test_places_of_the_file_are_completed() -> None:
    config = REPO / "configs/quickstart.yaml"
    assert completed(config, "see") == ["seeds="]
    assert "attacks.1.rate=" in completed(config, "attacks.1.r")
    assert "attacks.0.rate=" not in completed(config, "attacks.")
    sweep = REPO / "configs/sweeps/dede_small.yaml"
    assert "experiment.seeds=" in completed(sweep, "experiment.s")


@pytest.mark.parametrize("text", ["", "[", "attacks: [{kind: nothing}, 3]"])
def test_a_file_that_is_none_completes_no_entry(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    assert not completed(path, "attacks.")
    assert completed(tmp_path / "missing.yaml", "") == []
