"""`raybd doctor` on a cluster of two nodes, checks before a run, and the gauges of a run."""

import json
from pathlib import Path
from typing import Any

import pytest

from raybd.engine.cluster.doctor.node import largest_group, node_findings
from raybd.engine.grid.gauges import GAUGES, Gauges
from raybd.results.provenance import versions
from tests.clusters import cluster
from tests.paths import REPO

CONFIG = """
name: tiny
datasets: [{kind: digits, limit: 300, test_limit: 100, clean: 60}]
attacks: [{kind: badnets}]
trainers: [{kind: supervised, network: {kind: small_cnn, width: 8}, epochs: 1, augment: none}]
"""
FACTS = {"versions": versions(), "cuda": False, "disk": 2**40, "shared": 2**40}


def test_a_worker_never_spans_two_nodes() -> None:
    assert "up to 3 workers" in largest_group([{"CPU": 1.5}, {"CPU": 2}, {"CPU": 0.5}]).found
    assert "or 2 with 1 CPU and 1 GPU" in largest_group([{"CPU": 8, "GPU": 2}, {"CPU": 8}]).found
    assert not largest_group([{}]).ok


def test_a_sound_node_is_one_line() -> None:
    assert [finding.ok for finding in node_findings("n", "", FACTS)] == [True]


@pytest.mark.parametrize(
    ("changed", "gpus", "found"),
    [
        ({"versions": {**versions(), "torch": "1.0"}}, "", "torch 1.0 there"),
        (
            {"versions": {name: v for name, v in versions().items() if name != "raybd"}},
            "",
            "raybd is missing there",
        ),
        ({"disk": 2**20}, "", "free disk"),
        ({"shared": 2**20}, "", "shared memory"),
        ({}, "2 H100", "torch can't use"),
    ],
)
def test_each_problem_of_a_node_is_one_line_with_its_hint(
    changed: dict[str, Any], gpus: str, found: str
) -> None:
    problems = [
        finding for finding in node_findings("n", gpus, {**FACTS, **changed}) if not finding.ok
    ]
    assert len(problems) == 1
    assert found in problems[0].found
    assert problems[0].hint


def test_a_node_that_raises_is_a_problem() -> None:
    assert not next(node_findings("n", "", ModuleNotFoundError("No module named 'raybd'"))).ok


def test_gauges_have_the_names_of_the_dashboard_and_its_label() -> None:
    set_: dict[str, tuple[float, dict[str, str]]] = {}

    class Recorded:
        def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
            assert tag_keys == ("experiment",)
            self.name = name

        def set(self, value: float, tags: dict[str, str]) -> None:
            set_[self.name] = value, tags

    Gauges("tiny", Recorded).update(lambda: dict.fromkeys(GAUGES, 3.0))
    assert set_ == dict.fromkeys(GAUGES, (3.0, {"experiment": "tiny"}))
    asked = (REPO / "cluster" / "grafana.json").read_text()
    assert all(f"ray_{name}" in asked for name in GAUGES)


def test_gauges_that_can_not_be_exported_do_not_stop_a_run() -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no agent")

    Gauges("tiny", refuse).update(lambda: dict.fromkeys(GAUGES, 3.0))


@pytest.mark.ray
@pytest.mark.timeout(420)
def test_every_node_is_asked_and_a_store_of_one_node_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "tiny.yaml"
    config.write_text(CONFIG)
    with cluster(tmp_path, nodes=2) as here:
        code, out, err = here.raybd(
            "doctor", "--address", here.address, "--store", tmp_path / "shared", "--json"
        )
        assert code == 0, out + err
        found = [finding["check"] for finding in json.loads(out)]
        assert sum(check.startswith("node ") for check in found) == 2
        assert sum(check.startswith("store from ") for check in found) == 2
        assert not list((tmp_path / "shared").iterdir())

        # `memory://` is a store that each process has for itself
        code, out, err = here.raybd(
            "doctor", "--address", here.address, "--store", "memory://own", "--json"
        )
        assert code == 3
        assert any(
            "is another place there than here" in finding["found"] for finding in json.loads(out)
        )
        code, out, err = here.raybd(
            "run", config, "--address", here.address, "--store", "memory://own", "-q"
        )
        assert code == 3
        assert "store from" in err and "that all nodes share" in err
