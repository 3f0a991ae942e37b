"""What an interrupted command tells its user: the command that goes on with the work."""

import shlex
import sys
from dataclasses import dataclass


@dataclass
class Interruption:
    """What to do after an interruption of the running command."""

    resume: str = ""
    """The command that goes on. Empty: the same command again."""

    def resuming_command(self) -> str:
        """Return the command that goes on with what was interrupted."""
        return self.resume or shlex.join(sys.argv)


INTERRUPTION = Interruption()
"""Of this process: set by commands, read by the entry point."""
