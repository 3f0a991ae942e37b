"""Experiment files that somebody else wrote are refused fast, with one short line."""

from pathlib import Path

import pytest

from raybd.plan.file import load
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


HOSTILE = {
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
