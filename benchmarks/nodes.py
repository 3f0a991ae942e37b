"""Cells per minute of a grid on 1, 2, 3 and 4 nodes: raylets of this machine with one CPU each.

    python -m benchmarks.nodes [--nodes 1 2 3 4] [--cells 72] [--seconds 2]

The stages sleep. Every grid is a `raybd run --address` on a cluster of its own. Worker processes
import torch once, at the beginning, and all share the cores of this machine. So the table has the
steady pace next to that of the whole command. The steady pace is computed from the times of the
rows, without the first third of the cells, and without the last sixth, in which some nodes have no
work left. Efficiency is the steady pace for each node, divided by that of one node.
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.rounds import arguments_of, print_header, print_row
from raybd.results.provenance import commit, device_name, versions
from tests.clusters import cluster

ROUND = 12
"""Number of cells that 1, 2, 3 and 4 nodes can share evenly."""


def main() -> None:
    """Run one grid for each number of nodes."""
    arguments = arguments_of(__doc__)
    arguments.add_argument("--nodes", type=int, nargs="+", default=[1, 2, 3, 4])
    arguments.add_argument("--cells", type=int, default=6 * ROUND)
    arguments.add_argument("--seconds", type=float, default=2.0)
    asked = arguments.parse_args()

    # A number of cells that does not divide would leave nodes idle at the end.
    cells = max(3, asked.cells // ROUND) * ROUND
    machine = f"{device_name()}; ray {versions()['ray']}, commit {commit()}"
    print(f"{cells} cells that sleep {asked.seconds:g} s; {machine}")
    print_header("nodes", "whole command", "cells/min", "steady cells/min", "efficiency", "target")
    alone = 0.0
    for nodes in asked.nodes:
        wall, steady = run(nodes, cells, asked.seconds)
        alone = alone or steady / nodes
        efficiency = steady / nodes / alone
        pace = 60 * cells / wall
        print_row(nodes, f"{wall:.1f} s", f"{pace:.1f}", f"{steady:.1f}", f"{efficiency:.2f}", 0.9)


def run(nodes: int, cells: int, seconds: float) -> tuple[float, float]:
    """Return the seconds of the command, and the steady pace in cells per minute."""
    with tempfile.TemporaryDirectory(prefix="raybd-nodes-") as name:
        folder = Path(name)
        config = folder / "nodes.yaml"
        store = folder / "results"
        # JSON is YAML.
        config.write_text(json.dumps(experiment(cells, seconds)))
        with cluster(folder, nodes) as joined:
            began = time.perf_counter()
            code, _, err = joined.raybd(
                "run", config, "--store", store, "--address", joined.address
            )
            wall = time.perf_counter() - began
        if code:
            sys.exit(f"raybd run on {nodes} nodes ended with {code}:\n{err}")

        # The first row is that of the victim itself.
        ended = sorted(path.stat().st_mtime for path in (store / "cells").iterdir())[1:]
        # At the beginning workers start and import torch, at the end nodes run out of work.
        first = cells // 3
        last = cells - cells // 6
        return wall, 60 * (last - first) / (ended[last - 1] - ended[first - 1])


def experiment(cells: int, seconds: float) -> dict[str, Any]:
    """Return the experiment file; it also has one cell for the victim itself."""
    trainer = {
        "kind": "benchmarks.methods.untrained",
        "name": "untrained",
        "network": {"kind": "small_cnn", "width": 4},
    }
    detectors = [
        {
            "kind": "benchmarks.methods.sleeps",
            "name": f"sleeps_{i}",
            "seconds": seconds,
            "variant": i,
        }
        for i in range(cells)
    ]
    return {
        "name": "nodes",
        "datasets": [{"kind": "digits", "limit": 200, "test_limit": 40, "clean": 20, "size": 8}],
        "attacks": [{"kind": "none"}],
        "trainers": [trainer],
        "detectors": detectors,
    }


if __name__ == "__main__":
    main()
