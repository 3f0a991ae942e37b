"""What the commands print of texts that somebody else wrote."""

import subprocess
import sys

import pytest

from raybd.cli.cells_table import cells_table
from raybd.cli.output import printable, say, table_console

HOSTILE = "no [/x] here [bold]\x1b[31mred :smile:"


def row(error: str) -> dict[str, object]:
    names = dict.fromkeys(("dataset", "attack", "trainer", "defense"), "one")
    return {**names, "seed": 0, "status": "failed", "error": error}


def test_a_table_shows_brackets_and_escapes_control_characters(
    capsys: pytest.CaptureFixture[str],
) -> None:
    table_console().print(cells_table([row(HOSTILE)]))
    shown = capsys.readouterr().out
    assert "no [/x] here [bold]\\x1b[31mred :smile:" in shown
    assert "\x1b" not in shown


def test_lines_have_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    say("a\x1b[31m\rb")
    assert capsys.readouterr().err == "a\\x1b[31m\\rb\n"


def test_line_breaks_tabs_and_letters_of_any_script_stay() -> None:
    assert printable("ä\n\t語") == "ä\n\t語"


def test_a_command_that_loads_triton_says_nothing_about_its_memory() -> None:
    pytest.importorskip("triton")
    code = "import sys, triton; from raybd.cli.commands import main; sys.argv[1:] = ['--version']"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; main()"], capture_output=True, text=True, check=True
    )
    assert done.stdout
    assert done.stderr == ""
