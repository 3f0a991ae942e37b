"""What a cluster can hold, and what is said of what it can't; the diary of a run."""

import json
from pathlib import Path

import pytest

from raybd.cells.resources import Resources
from raybd.engine.cluster.connect import ClusterResources, unplaceable
from raybd.engine.grid.run_log import RunLog
from raybd.results.store import Store


def offer(*nodes: tuple[float, float]) -> ClusterResources:
    return ClusterResources(
        {f"node{i}": node for i, node in enumerate(nodes)},
        default_gpus=float(any(gpus for _, gpus in nodes)),
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
    assert offer(*nodes).holds(Resources.model_validate(asked)) is held


def test_what_was_asked_and_what_there_is_stand_in_the_error() -> None:
    error = unplaceable("victim", Resources(workers=3, cpus_per_worker=2), offer((4, 1), (1, 0)))
    assert error.exit_code == 3
    assert "a victim stage asks for 3 worker(s) with 2 CPUs and 1 GPUs each" in error.what
    assert "2 nodes, 5 CPUs, 1 GPUs (the largest node: 4 CPUs, 1 GPUs)" in error.what


def test_a_diary_is_in_the_store_line_by_line(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    diary = RunLog(store, "tiny")
    diary.note("stage began", key="k", node="n")
    assert not store.files(
        "runs/tiny/*.jsonl"
    )  # not yet: it is written as a whole, from time to time
    diary._next = 0.0
    diary.note("stage done", key="k")
    diary.note("run ended", how="done")
    diary.write()
    (path,) = store.files("runs/tiny/*.jsonl")
    lines = [json.loads(line) for line in store.read(path).decode().splitlines()]
    assert [line["what"] for line in lines] == ["stage began", "stage done", "run ended"]
    assert lines[0]["node"] == "n" and lines[0]["at"] <= lines[2]["at"]
