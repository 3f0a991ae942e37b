"""What a cluster can hold, and the error for what it cannot; the log of a run."""

import json
from pathlib import Path

import pytest

from raybd.cells.resources import Resources
from raybd.engine.cluster.resources import ClusterResources, NodeResources, placement_error
from raybd.engine.grid.run_log import RunLog
from raybd.results.store import Store


def cluster_of(*nodes: tuple[float, float]) -> ClusterResources:
    return ClusterResources(
        {f"node{i}": NodeResources(*node) for i, node in enumerate(nodes)},
        default_gpus_per_worker=float(any(gpus for _, gpus in nodes)),
    )


@pytest.mark.parametrize(
    ("nodes", "asked", "held"),
    [
        ([(4, 0)], {"workers": 4}, True),
        ([(4, 0)], {"workers": 5}, False),
        ([(1, 0), (1, 0)], {"workers": 2}, True),
        ([(1, 0), (1, 0)], {"cpus_per_worker": 2}, False),
        ([(3, 0), (3, 0)], {"workers": 3, "cpus_per_worker": 2}, False),
        ([(8, 1), (8, 0)], {"workers": 2}, False),
        ([(8, 1), (8, 0)], {"workers": 2, "gpus_per_worker": 0}, True),
        ([(8, 1)], {"workers": 4, "gpus_per_worker": 0.25}, True),
        ([(8, 1)], {"workers": 5, "gpus_per_worker": 0.25}, False),
        ([], {}, False),
    ],
)
def test_a_worker_never_spans_two_nodes(
    nodes: list[tuple[float, float]], asked: dict[str, float], held: bool
) -> None:
    assert cluster_of(*nodes).can_hold(Resources.model_validate(asked)) is held


def test_what_was_asked_and_what_there_is_stand_in_the_error() -> None:
    error = placement_error(
        "victim", Resources(workers=3, cpus_per_worker=2), cluster_of((4, 1), (1, 0))
    )
    assert error.exit_code == 3
    assert "a victim stage asks for 3 worker(s) with 2 CPUs and 1 GPUs each" in error.what
    assert "2 nodes, 5 CPUs, 1 GPUs (the largest node: 4 CPUs, 1 GPUs)" in error.what


def test_a_run_log_is_in_the_store_line_by_line(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    run_log = RunLog(store, "tiny")
    run_log.record("stage began", key="k", node="n")
    # Not yet: it is written as a whole, from time to time.
    assert not store.files("runs/tiny/*.jsonl")
    run_log.record("run ended", how="done")
    run_log.write()
    lines = written_lines(store)
    assert [line["what"] for line in lines] == ["stage began", "run ended"]
    assert lines[0]["node"] == "n" and lines[0]["at"] <= lines[1]["at"]


def test_a_run_log_is_written_while_the_run_goes_on(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    run_log = RunLog(store, "tiny", write_seconds=0)
    run_log.record("stage began", key="k", node="n")
    assert [line["what"] for line in written_lines(store)] == ["stage began"]


def written_lines(store: Store) -> list[dict[str, str]]:
    (path,) = store.files("runs/tiny/*.jsonl")
    return [json.loads(line) for line in store.read(path).decode().splitlines()]
