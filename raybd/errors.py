"""The two errors that have a meaning of their own; apart from types.py, which needs torch."""


class UserError(Exception):
    """A mistake that the user can mend: the first line says what and where, the second what to do."""

    def __init__(self, what: str, mend: str, exit_code: int = 2) -> None:
        super().__init__(f"{what}\n{mend}")
        self.what, self.mend, self.exit_code = what, mend, exit_code

    def __reduce__(self) -> tuple[type["UserError"], tuple[str, str, int]]:
        return type(self), (self.what, self.mend, self.exit_code)


class Infeasible(Exception):
    """The attack can't be built on this data set, for instance a clean-label rate larger than the target class."""
