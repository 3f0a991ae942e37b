"""Experiment files that somebody else wrote are refused fast, with one short line."""

from pathlib import Path

import pytest

from raybd.plan.file import load
from raybd.sweeps.file import load_sweep
from raybd.types.errors import UserError
from tests.hostile import refusal, refused

GOOD = """
name: tiny
datasets: [{kind: digits}]
attacks: [{kind: badnets}]
trainers: [{kind: supervised, network: small_cnn}]
"""


def laughs(levels: int) -> str:
    """A list whose aliases stand for 10 ** levels values."""
    lines = ["x0: &x0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    for level in range(1, levels):
        lines.append(f"x{level}: &x{level} [{', '.join([f'*x{level - 1}'] * 10)}]")
    return "\n".join([*lines, f"name: *x{levels - 1}"])


def grid(**sizes: int) -> str:
    """An experiment file whose lists have these lengths."""
    entry = {
        "datasets": "{kind: digits, name: d%d}",
        "attacks": "{kind: none, name: a%d}",
        "trainers": "{kind: supervised, network: small_cnn, name: t%d}",
        "detectors": "{kind: spectral, name: s%d}",
        "repairs": "{kind: clp, name: r%d}",
        "seeds": "%d",
    }
    wanted = {"datasets": 1, "attacks": 1, "trainers": 1, **sizes}
    lists = {
        name: ", ".join(entry[name] % at for at in range(size)) for name, size in wanted.items()
    }
    return "name: tiny\n" + "".join(f"{name}: [{items}]\n" for name, items in lists.items())


HOSTILE = {
    "a billion cells by seeds": grid(seeds=3_000, attacks=600, detectors=600),
    "a billion cells by all lists": grid(
        datasets=100, attacks=100, trainers=100, detectors=50, repairs=49, seeds=10
    ),
    "one cell too many": grid(seeds=5_000, detectors=20),
    "one seed many times": GOOD + f"seeds: [{', '.join(['1'] * 9_000)}]",
    "a seed that no table can hold": GOOD + "seeds: [9223372036854775808]",
    "workers without number": GOOD + "resources: {workers: 1000000000000}",
    "aliases of aliases": laughs(9),
    "an alias of itself": "name: &a [*a]",
    "a long text, many times": f"a: &a {'x' * 9000}\nname: [{', '.join(['*a'] * 9000)}]",
    "depth": "name: " + "[" * 20_000,
    "depth of mappings": "name: " + "{a: " * 20_000,
    "many values": "name: [" + "1," * 100_000 + "]",
    "a large file": "# " + "x" * 30_000_000,
    "a long name": GOOD.replace("tiny", "t" * 200_000),
    "a long field": GOOD.replace("badnets", "badnets, " + "r" * 200_000 + ": 1"),
    "a number of 100,000 digits": f"name: tiny\nseeds: [{'9' * 100_000}]",
    "a date that is none": "name: 2026-99-99",
    "a long kind": GOOD.replace("badnets", "b" * 9_000),
    "a kind with a path": GOOD.replace("badnets", "../../etc/passwd"),
    "a kind with line ends": GOOD.replace("badnets", r'"bad\nnets\n\e[2J"'),
    "a name with a path": GOOD.replace("tiny", "../../tiny"),
    "a name with a line end": GOOD.replace("tiny", r'"tiny\n"'),
    "a script in the name of a method": GOOD.replace("badnets}", "badnets, name: '<script>'}"),
    "line ends in the name of a method": GOOD.replace("badnets}", r'badnets, name: "a\nb"}'),
    "a line end after the name of a method": GOOD.replace("badnets}", r'badnets, name: "a\n"}'),
    "a field with line ends": GOOD.replace("badnets}", r'badnets, "a\nb": 1}'),
    "long values": GOOD.replace("badnets}", f"badnets, rate: {'x' * 9_000}}}"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_file_is_refused_fast(tmp_path: Path, what: str) -> None:
    path = tmp_path / "hostile.yaml"
    path.write_text(HOSTILE[what])
    refusal(lambda: load(path))


@pytest.mark.parametrize("text", ["[" * 20_000, "&a [*a]", "x" * 50_000, "2026-99-99"])
def test_a_hostile_value_on_the_command_line_is_refused_fast(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(GOOD)
    with refused():
        load(path, [f"attacks.0.rate={text}"])


def test_a_device_is_not_read_to_its_end() -> None:
    with refused() as found:
        load("/dev/zero")
    assert "bytes" in found[0].what


def test_aliases_are_allowed(tmp_path: Path) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(GOOD.replace("{kind: digits}", "&d {kind: digits}") + "removal: false\n")
    assert load(path).name == "tiny"


def test_what_is_too_large_is_named(tmp_path: Path) -> None:
    path = tmp_path / "hostile.yaml"
    path.write_text(laughs(9))
    with pytest.raises(UserError, match="aliases") as caught:
        load(path)
    assert str(path) in caught.value.what


def test_the_number_of_cells_is_told_by_list(tmp_path: Path) -> None:
    path = tmp_path / "hostile.yaml"
    path.write_text(grid(seeds=5_000, detectors=20))
    with pytest.raises(
        UserError, match=r"105000 cells \(1 datasets x 1 attacks x 1 trainers x 5000"
    ):
        load(path)
    path.write_text(grid(seeds=10, detectors=20))
    assert len(load(path).seeds) == 10


def sweep_of(**changed: str) -> str:
    parts = {
        "name": "swept",
        "experiment": "{datasets: [{kind: digits}], attacks: [{kind: badnets}], "
        "trainers: [{kind: supervised, network: small_cnn}], detectors: [{kind: asset}]}",
        "search": "{detectors.0: {top: null}}",
        "objectives": "[auroc]",
        **changed,
    }
    return "".join(f"{name}: {value}\n" for name, value in parts.items())


SWEEPS = {
    "aliases of aliases": laughs(9),
    "a name with a path": sweep_of(name="../../x"),
    "a name with a line end": sweep_of(name=r'"x\n"'),
    "a script in the name": sweep_of(name="<script>"),
    "no experiment": sweep_of(experiment="[]"),
    "an experiment of a billion cells": sweep_of(
        experiment="{"
        + grid(seeds=3_000, attacks=600, detectors=600)[11:].replace("\n", ", ")
        + "}"
    ),
    "trials without number": sweep_of(trials="1000000000000"),
    "concurrency without number": sweep_of(concurrency="1000000000000"),
    "a seed of many digits": sweep_of(seed="9" * 1000),
    "many objectives": sweep_of(objectives=f"[{', '.join(['auroc'] * 5_000)}]"),
    "an objective with an escape": sweep_of(objectives=r'["\e[2J"]'),
    "an objective of a mapping": sweep_of(objectives="[{a: maximize, b: minimize}]"),
    "a place that is none": sweep_of(search="{detectors.99999999999: {top: null}}"),
    "a place before the first": sweep_of(search="{detectors.-1: {top: null}}"),
    "a place inside of Python": sweep_of(search="{detectors.0.__class__: {top: null}}"),
    "a deep place": sweep_of(search=f"{{detectors.0{'.x' * 4_000}: {{top: null}}}}"),
    "many places": sweep_of(
        search="{" + ", ".join(f"detectors.{at}: {{top: null}}" for at in range(3_000)) + "}"
    ),
    "a range that is infinite": sweep_of(search="{detectors.0: {top: {low: .1, high: .inf}}}"),
    "a range of many digits": sweep_of(
        search=f"{{detectors.0: {{top: {{low: 0, high: {'9' * 400}}}}}}}"
    ),
    "a range of nothing": sweep_of(search="{detectors.0: {top: {low: .nan, high: .nan}}}"),
    "a range upside down": sweep_of(search="{detectors.0: {top: {low: .9, high: .1}}}"),
    "a range of texts": sweep_of(search="{detectors.0: {top: {low: a, high: b}}}"),
    "a range of a list": sweep_of(search="{detectors.0: {top: [1, 2]}}"),
    "no choices": sweep_of(search="{detectors.0: {top: {choices: []}}}"),
    "choices that are none": sweep_of(search="{detectors.0: {top: {choices: [{a: 1}, [2]]}}}"),
    "an unknown field": sweep_of(search="{detectors.0: {__dict__: null}}"),
    "held out without number": sweep_of(held_out="{attacks: []}"),
}


@pytest.mark.parametrize("what", SWEEPS)
def test_a_hostile_sweep_is_refused_fast(tmp_path: Path, what: str) -> None:
    path = tmp_path / "hostile.yaml"
    path.write_text(SWEEPS[what])
    refusal(lambda: load_sweep(path))


def test_the_sweep_that_the_hostile_ones_are_made_of_is_read(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(sweep_of())
    assert load_sweep(path).name == "swept"
