"""Runs a command in the process of the test."""

import sys

import pytest

from raybd.cli import commands


def raybd(monkeypatch: pytest.MonkeyPatch, *args: object) -> int:
    """Run a command in this process, and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["raybd", *map(str, args)])
    with pytest.raises(SystemExit) as stop:
        commands.main()
    assert isinstance(stop.value.code, int)
    return stop.value.code
