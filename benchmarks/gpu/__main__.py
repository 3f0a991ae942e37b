"""The command line: `python -m benchmarks.gpu`. See the package for what it needs."""

import json
import time
from pathlib import Path

import benchmarks.gpu
from benchmarks.gpu import methods, trainings
from benchmarks.gpu.rows import Line, Row, run
from benchmarks.gpu.sizes import FULL, TINY, Sizes, real
from benchmarks.rounds import arguments_of, print_header, print_row, where
from raybd.results.provenance import commit, device_name, versions

BUDGET = 9 * 60
"""Seconds: a machine with a GPU is often lent for ten minutes."""


def main() -> None:
    arguments = arguments_of(benchmarks.gpu.__doc__)
    arguments.add_argument("--budget", type=float, default=BUDGET, help="seconds for all rows")
    arguments.add_argument("--json", type=Path, help="also write the rows to this file")
    arguments.add_argument("--only", nargs="+", default=[""], help="rows with one of these words")
    arguments.add_argument("--tiny", action="store_true", help="sizes for a CPU, to try it out")
    asked = arguments.parse_args()

    chosen = [row for row in rows(TINY if asked.tiny else FULL) if _named(row, asked.only)]
    lines = measure(chosen, asked.budget, asked.json)
    print_ratios(lines)


def rows(sizes: Sizes) -> list[Row]:
    """Return all rows, those that matter most first."""
    return [*trainings.rows(sizes), *methods.rows(sizes)]


def measure(chosen: list[Row], budget: float, file: Path | None) -> list[Line]:
    """Print a line for each row as soon as it is known, and return them."""
    ends = time.monotonic() + budget
    images = "CIFAR-10" if real() else "random images"
    print(f"{where()}; {images}, budget {budget:.0f} s\n")
    print_header("row", "value", "peak, GiB", "GPU busy", "whole row, s", "note")
    lines: list[Line] = []
    for row in chosen:
        line = run(row, ends - time.monotonic())
        lines.append(line)
        print_row(*line.cells())
        if file is not None:
            # After each row: whatever ends the process leaves what was measured.
            _write(lines, file)
    return lines


def print_ratios(lines: list[Line]) -> None:
    """Print how the ways of a training compare."""
    speed = {line.name: line.value for line in lines if line.value is not None}
    bases = [name for name in speed if name.endswith(", the field's way")]
    if bases:
        print("\nTimes the field's way:")
    for base in bases:
        network = base.rsplit(",", 1)[0]
        others = [name for name in speed if name.startswith(f"{network}, ") and name != base]
        ratios = [f"{name.split(', ', 1)[1]} {speed[name] / speed[base]:.2f}" for name in others]
        print(f"- {network}: {'; '.join(ratios)}")


def _named(row: Row, words: list[str]) -> bool:
    return any(word in row.name for word in words)


def _write(lines: list[Line], file: Path) -> None:
    facts = {
        "hardware": device_name(),
        "commit": commit(),
        "versions": versions(),
        "images": "cifar10" if real() else "random",
        "rows": [line.described() for line in lines],
    }
    file.write_text(json.dumps(facts, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
