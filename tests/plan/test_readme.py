"""The examples of the README and of the guide can be run as they stand."""

import re

import pytest
import yaml

from raybd.plan.file import parse
from tests.paths import REPO

README = (REPO / "README.md").read_text(encoding="utf-8")
GUIDE = (REPO / "docs" / "guide" / "experiments.md").read_text(encoding="utf-8")
ENTRIES = [entry.replace("\n", " ") for entry in re.findall(r"`(\{kind: [^`]*\})`", GUIDE)]
"""Entries of an experiment file that stand in the text."""
LISTS = {
    "cbd": "training_defenses",
    "dbd": "training_defenses",
    "asset": "detectors",
    "fine_tune": "repairs",
    "neural_cleanse": "repairs",
}
"""The lists of the entries that are no trainers."""


@pytest.mark.parametrize("page", [README, GUIDE], ids=["readme", "guide"])
def test_the_experiment_file_is_one(page: str) -> None:
    (text,) = re.findall(r"```yaml\n(name:.*?)```", page, re.S)
    cells = parse(yaml.safe_load(text)).cells()
    assert len(cells) == 2 * 4
    assert not any(cell.infeasible for cell in cells)


def test_all_entries_of_the_guide_are_found() -> None:
    kinds = {yaml.safe_load(entry)["kind"] for entry in ENTRIES}
    assert kinds == {"transfer", "linear_probe", "zero_shot", *LISTS}


@pytest.mark.parametrize("text", ENTRIES, ids=lambda text: text[7:20])
def test_the_entries_of_the_guide_are_accepted(text: str) -> None:
    entry = yaml.safe_load(text)
    raw = {
        "name": "readme",
        "datasets": [{"kind": "digits"}],
        "attacks": [{"kind": "none"}],
        "trainers": [{"kind": "supervised", "network": "small_cnn"}],
    }
    if "then" in entry:
        raw["scanners"] = [{"kind": kind} for kind in entry["then"]]
    asked = parse({**raw, LISTS.get(entry["kind"], "trainers"): [entry]})
    methods = {*asked.defenses, *(training.trainer for training in asked.trainings)}
    assert entry["kind"] in {method.kind for method in methods}
