"""How the pace of a grid grows with the nodes: 1, 2, 3 and 4 raylets of this machine, each with one CPU, and stages that sleep.

    python -m benchmarks.nodes [--nodes 1 2 3 4] [--cells 72] [--seconds 2]

Every grid is a `raybd run --address` on a cluster of its own. Worker processes read torch once, at the beginning, all on the same
cores here; so beside the whole command stands the steady pace: by the times of the rows, without the first third of the cells and
the last sixth, in which some nodes have nothing left to do. Efficiency is the steady pace for each node against that of one node.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from raybd.results.provenance import commit, device_name, versions
from tests.clusters import cluster

ROUND = 12
"""Cells come in rounds that 1, 2, 3 and 4 nodes can share evenly."""


def main() -> None:
    """One grid for each number of nodes."""
    arguments = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    arguments.add_argument("--nodes", type=int, nargs="+", default=[1, 2, 3, 4])
    arguments.add_argument("--cells", type=int, default=6 * ROUND)
    arguments.add_argument("--seconds", type=float, default=2.0)
    asked = arguments.parse_args()
    cells = max(3, asked.cells // ROUND) * ROUND
    found = versions()
    print(
        f"{cells} cells that sleep {asked.seconds:g} s; {device_name()}; ray {found['ray']}, commit {commit()}"
    )
    print(
        "| nodes | whole command | cells/min | steady cells/min | efficiency | bound |\n|---|---|---|---|---|---|"
    )
    alone = 0.0
    for nodes in asked.nodes:
        wall, steady = run(nodes, cells, asked.seconds)
        alone = alone or steady / nodes
        whole = 60 * cells / wall
        print(
            f"| {nodes} | {wall:.1f} s | {whole:.1f} | {steady:.1f} | {steady / nodes / alone:.2f} | 0.9 |",
            flush=True,
        )


def run(nodes: int, cells: int, seconds: float) -> tuple[float, float]:
    """Seconds of the command, and cells in a minute of its middle."""
    with tempfile.TemporaryDirectory(prefix="raybd-nodes-") as name:
        folder = Path(name)
        config, store = folder / "nodes.yaml", folder / "results"
        config.write_text(json.dumps(experiment(cells, seconds)))
        with cluster(folder, nodes) as joined:
            began = time.perf_counter()
            code, _, err = joined.raybd(
                "run", config, "--store", store, "--address", joined.address
            )
            wall = time.perf_counter() - began
        if code:
            sys.exit(f"raybd run on {nodes} nodes ended with {code}:\n{err}")
        ended = sorted(path.stat().st_mtime for path in (store / "cells").iterdir())[
            1:
        ]  # the first is the victim's own
        first, last = cells // 3, cells - cells // 6
        return wall, 60 * (last - first) / (ended[last - 1] - ended[first - 1])


def experiment(cells: int, seconds: float) -> dict[str, Any]:
    """The experiment file: beside these cells one for the victim itself."""
    return {
        "name": "nodes",
        "datasets": [{"kind": "digits", "limit": 200, "test_limit": 40, "clean": 20, "size": 8}],
        "attacks": [{"kind": "none"}],
        "trainers": [
            {
                "kind": "benchmarks.methods.untrained",
                "name": "untrained",
                "network": {"kind": "small_cnn", "width": 4},
            }
        ],
        "detectors": [
            {
                "kind": "benchmarks.methods.sleeps",
                "name": f"sleeps_{i}",
                "seconds": seconds,
                "variant": i,
            }
            for i in range(cells)
        ],
    }


if __name__ == "__main__":
    main()
