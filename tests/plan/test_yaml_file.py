"""A YAML file is read as it is written, or refused."""

from pathlib import Path

import pytest

from raybd.plan.overrides import set_value
from raybd.plan.yaml_file import read
from raybd.types.errors import UserError

TWICE = """\
name: twice
attacks: [{kind: badnets}]
seeds: [0, 1]
attacks: [{kind: blended}]
"""
MERGED = """\
common: &common {epochs: 1, lr: 0.1}
mine: &mine {<<: *common, lr: 0.2}
again: {<<: *mine, lr: 0.3}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "file.yaml"
    path.write_text(text)
    return path


def test_a_repeated_key_is_refused_with_its_name_and_both_lines(tmp_path: Path) -> None:
    path = write(tmp_path, TWICE)
    with pytest.raises(UserError, match=r"file\.yaml, line 4: 'attacks' .* line 2"):
        read(path, (), "a file")


def test_a_key_that_is_repeated_inside_of_an_entry_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "name: a\nattacks:\n- kind: badnets\n  rate: 0.1\n  rate: 0.2\n")
    with pytest.raises(UserError, match=r"line 5: 'rate'"):
        read(path, (), "a file")


def test_a_value_on_the_command_line_repeats_no_key_either() -> None:
    with pytest.raises(UserError, match="'rate'"):
        set_value({"attacks": []}, "attacks={rate: 0.1, rate: 0.2}")


def test_a_merged_mapping_may_be_overridden(tmp_path: Path) -> None:
    raw = read(write(tmp_path, MERGED), (), "a file")
    assert raw["mine"] == {"epochs": 1, "lr": 0.2}
    assert raw["again"] == {"epochs": 1, "lr": 0.3}
