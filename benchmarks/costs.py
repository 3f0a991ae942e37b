"""How well the times of stages are estimated: each is held out of a store, and estimated.

    python -m benchmarks.costs STORE

`same`: only the stage itself is held out, so that other seeds of it are known. `scaled`: all stages
that ask for the same are, so that its time is scaled from other sizes, networks and methods. The
error is that of one stage; the ratio is that of the sums, which a plan shows. Stages below a tenth
of a second are left out: they are noise, and add up to nothing.
"""

import json
import statistics
from collections.abc import Callable
from pathlib import Path

from benchmarks.rounds import arguments_of, print_header, print_row
from raybd.plan.costs import CostModel, Took, learned

LEAST_SECONDS = 0.1


def main() -> None:
    arguments = arguments_of(__doc__)
    arguments.add_argument("store", type=Path)
    asked = arguments.parse_args()
    manifests = {
        path.parent.name: json.loads(path.read_text(encoding="utf-8"))
        for path in asked.store.glob("artifacts/*/*/manifest.json")
    }
    seen = learned(manifests, {})
    print(f"{asked.store}: {len(seen)} stages")
    print_header("held out", "stages", "median error", "estimated over true, sums")
    if not any(one.work.images for one in seen):
        print("none of its artefacts says its number of images")
        return
    ways: dict[str, Callable[[Took, Took], bool]] = {
        "same": lambda one, other: one is other,
        "scaled": lambda one, other: one.work == other.work,
    }
    for name, hidden in ways.items():
        pairs = held_out(seen, hidden)
        print_row(name, len(pairs), f"{median_error(pairs):.0%}", f"{ratio(pairs):.2f}")


def held_out(seen: list[Took], hidden: Callable[[Took, Took], bool]) -> list[tuple[float, float]]:
    """Return estimate and truth of each stage, without what is hidden while it is estimated."""
    found: list[tuple[float, float]] = []
    for one in seen:
        # The size of older artefacts is not known.
        if one.seconds < LEAST_SECONDS or not one.work.images:
            continue
        model = CostModel([other for other in seen if not hidden(one, other)])
        found.append((model.estimate(one.work)[0], one.seconds))
    return found


def median_error(pairs: list[tuple[float, float]]) -> float:
    """Return the median of how far estimates are from the truth, as a share of it."""
    return statistics.median(abs(estimate / true - 1) for estimate, true in pairs)


def ratio(pairs: list[tuple[float, float]]) -> float:
    """Return the sum of the estimates over the sum of the true times."""
    return sum(estimate for estimate, _ in pairs) / sum(true for _, true in pairs)


if __name__ == "__main__":
    main()
