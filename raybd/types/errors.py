"""The two errors with a meaning of their own. This module imports nothing and loads fast."""


class UserError(Exception):
    """An error that the user can fix: what is wrong and where, and what to do about it."""

    def __init__(self, what: str, hint: str, exit_code: int = 2) -> None:
        super().__init__(f"{what}\n{hint}")
        self.what, self.hint, self.exit_code = what, hint, exit_code

    def __reduce__(self) -> tuple[type["UserError"], tuple[str, str, int]]:
        # An exception is built again from its `args`, here one text, when a worker sends it.
        return type(self), (self.what, self.hint, self.exit_code)


class Infeasible(Exception):
    """The method cannot be applied here, e.g. a clean-label rate larger than the target class."""
