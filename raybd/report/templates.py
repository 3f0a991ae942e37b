"""What the pages of a store share: templates, scripts, styles, and what a page may run."""

import base64
from collections.abc import Mapping
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raybd.types.errors import UserError

if TYPE_CHECKING:
    from jinja2 import Environment


def environment() -> "Environment":
    """Return the environment of the templates of this package.

    Raises UserError if the extra `report` is not installed.
    """
    try:
        # An extra: all other commands must work without it.
        from jinja2 import Environment, FunctionLoader, StrictUndefined
    except ImportError as error:
        raise UserError(
            f"the report needs a package that is not installed ({error.name})",
            "Install it: pip install raybd[report]",
        ) from error

    return Environment(
        loader=FunctionLoader(read),
        # Names and errors come from users' files: none may become markup.
        autoescape=True,
        # A misspelled name in a template raises an error, and is not an empty place on the page.
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def as_data(value: Mapping[str, Any]) -> Any:
    """Return JSON that may stand in an element of a page, as markup.

    < > & ' and all that is not ASCII become \\uXXXX, so that no name can close its element or
    become markup. Raises ValueError for a number that is not finite: browsers refuse the whole
    JSON for one NaN.
    """
    from jinja2.utils import htmlsafe_json_dumps

    return htmlsafe_json_dumps(value, separators=(",", ":"), allow_nan=False)


def policy(script: str, also: str = "") -> str:
    """Return the Content-Security-Policy of a page that runs this script, and no other.

    The templates escape all that the store says; this is a second lock. Styles may stand in
    elements, and images in the page itself. Nothing is loaded or sent. `also` names further sources
    of scripts.
    """
    digest = base64.b64encode(sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'{also}; style-src 'unsafe-inline'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def read(path: str) -> str:
    """Return a text file of this package, by its path below raybd/report."""
    return files("raybd.report").joinpath(path).read_text(encoding="utf-8")


def write_file(target: Path, data: bytes) -> None:
    """Write a file and its folder. Raises UserError if that can't be done."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    except OSError as error:
        # Any reason of the system is the user's to mend: no folder, no permission, a full disk.
        raise UserError(
            f"{target}: can't be written: {error.strerror}", "Give another path."
        ) from error
