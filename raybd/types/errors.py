"""The two errors with a meaning of their own. This module imports nothing and loads fast."""

MAX_CHARACTERS = 800
"""Length of what an error says is wrong. It may quote what somebody else wrote."""


class UserError(Exception):
    """An error that the user can fix: what is wrong and where, and what to do about it.

    What is wrong is one line, however long and strange the values are that it quotes.
    """

    def __init__(self, what: str, hint: str, exit_code: int = 2) -> None:
        what = one_line(what)
        super().__init__(f"{what}\n{hint}")
        self.what, self.hint, self.exit_code = what, hint, exit_code

    def __reduce__(self) -> tuple[type["UserError"], tuple[str, str, int]]:
        # An exception is built again from its `args`, here one text, when a worker sends it.
        return type(self), (self.what, self.hint, self.exit_code)


class Infeasible(Exception):
    """The method cannot be applied here, e.g. a clean-label rate larger than the target class."""


def one_line(text: str) -> str:
    """Return a text as one line of at most MAX_CHARACTERS, with control characters escaped."""
    if len(text) > MAX_CHARACTERS:
        # The place comes first, the reason often last.
        half = MAX_CHARACTERS // 2 - 10
        text = f"{text[:half]} [...] {text[-half:]}"
    # A terminal would obey what is not printable, like an escape sequence.
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
