"""The log of a job, received over several connections."""

from collections.abc import Callable


class JobLog:
    """Shows each part of a log once: Ray sends the log from its beginning on every connection."""

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show = show
        self._received = 0
        self._shown = 0

    def reconnected(self) -> None:
        """Begin to receive the log from its beginning."""
        self._received = 0

    def receive(self, text: str) -> None:
        """Show the part of the next text of this connection that was not shown before."""
        # Cut, not dropped: the parts of two connections need not end at the same places.
        new = text[max(self._shown - self._received, 0) :]
        self._received += len(text)
        self._shown = max(self._shown, self._received)
        if new:
            self._show(new)
