"""A command that is terminated ends with exit code 130 and the command that goes on."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.paths import REPO

CONFIG = """
name: tiny
datasets: [{kind: digits, limit: 300, test_limit: 100, clean: 60}]
attacks: [{kind: badnets}]
trainers: [{kind: supervised, network: {kind: small_cnn, width: 8}, epochs: 2000, augment: none}]
"""


def start(*args: object, ignoring: signal.Signals | None = None) -> "subprocess.Popen[str]":
    def ignore() -> None:
        for name in (signal.SIGINT, signal.SIGHUP):
            signal.signal(name, signal.SIG_IGN if name == ignoring else signal.SIG_DFL)

    return subprocess.Popen(
        [sys.executable, "-m", "raybd", *map(str, args)],
        cwd=REPO,
        env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=ignore,  # noqa: PLW1509
    )


def wait_for_reader(pipe: Path) -> int:
    """Return a handle to a named pipe as soon as somebody reads it."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            time.sleep(0.05)
    raise AssertionError("nobody reads the pipe")


@pytest.mark.parametrize("command", ["run", "sweep"])
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_terminated_command_says_how_to_go_on(tmp_path: Path, name: str, command: str) -> None:
    # A file that never ends: the command waits for it.
    pipe = tmp_path / "pipe.yaml"
    os.mkfifo(pipe)
    arguments = [command, pipe, "--store", tmp_path / "r", "--address", "10.0.0.1:6379", "-q"]
    process = start(*arguments)
    handle = wait_for_reader(pipe)
    time.sleep(0.2)
    process.send_signal(getattr(signal, name))
    _, err = process.communicate(timeout=30)
    os.close(handle)
    assert process.returncode == 130
    assert err.splitlines() == [
        "interrupted; nothing that was finished is lost. To go on:",
        f"  raybd {shlex.join(map(str, arguments))}",
    ]


def test_a_command_in_the_background_of_a_script_can_be_terminated(tmp_path: Path) -> None:
    # A shell without job control lets it ignore SIGINT.
    pipe = tmp_path / "pipe.yaml"
    os.mkfifo(pipe)
    process = start("run", pipe, ignoring=signal.SIGINT)
    handle = wait_for_reader(pipe)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    os.close(handle)
    assert process.returncode == 130


def test_nohup_is_respected(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.yaml"
    os.mkfifo(pipe)
    process = start("run", pipe, ignoring=signal.SIGHUP)
    handle = wait_for_reader(pipe)
    process.send_signal(signal.SIGHUP)
    os.write(handle, b"- no mapping\n")
    os.close(handle)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 2
    assert "holds no mapping" in err


@pytest.mark.ray
@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_terminated_run_ends_without_a_crash_dump(tmp_path: Path, name: str) -> None:
    config = tmp_path / "tiny.yaml"
    config.write_text(CONFIG)
    process = start("run", config, "--store", tmp_path / "results", "-q")
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("results/artifacts/poison/*/manifest.json")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    process.send_signal(getattr(signal, name))
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "received" not in err
    assert err.splitlines()[-2:] == [
        "interrupted; nothing that was finished is lost. To go on:",
        f"  raybd run {config} --store {tmp_path}/results -q",
    ]
