"""What an interrupted command tells its user: the command that goes on with the work."""

import os
import shlex
import signal
import sys
from dataclasses import dataclass
from types import FrameType


@dataclass
class Interruption:
    """What to do after an interruption of the running command."""

    resume: str = ""
    """The command that goes on. Empty: the same command again."""

    def resuming_command(self) -> str:
        """Return the command that goes on with what was interrupted."""
        return self.resume or shlex.join(_this_command())


INTERRUPTION = Interruption()
"""Of this process: set by commands, read by the entry point."""


def same_command(store: str, address: str | None) -> str:
    """Return this command, with the store and the cluster that it uses."""
    words = _this_command()
    address = address or os.environ.get("RAY_ADDRESS")
    # Both may come from variables that are unset in the shell that goes on.
    for option, value in (("--store", store), ("--address", address)):
        named = any(word == option or word.startswith(f"{option}=") for word in words)
        if value and not named:
            words += [option, value]
    return shlex.join(words)


def end_like_interrupted() -> None:
    """Let SIGTERM and SIGHUP end this process as Ctrl-C does."""
    for name in (signal.SIGTERM, signal.SIGHUP):
        # `nohup` lets a command ignore the end of its terminal.
        if signal.getsignal(name) != signal.SIG_IGN:
            signal.signal(name, _interrupt)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    # SIGINT is not raised instead: a shell script lets its background commands ignore it.
    raise KeyboardInterrupt


def _this_command() -> list[str]:
    # The first argument is a path, that of a module for `python -m raybd`.
    return ["raybd", *sys.argv[1:]]
