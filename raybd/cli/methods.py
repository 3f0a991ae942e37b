"""`raybd list` and `raybd show`: which methods there are, and what can be set."""

from typing import Annotated

import typer

from raybd.cli import options
from raybd.cli.output import print_json, table_console
from raybd.registry import METHOD_ROLES, Role, did_you_mean, method_class, names, singular, summary
from raybd.types.errors import UserError


def list_(
    role: Annotated[str | None, typer.Argument(help=f"One of: {', '.join(METHOD_ROLES)}.")] = None,
    as_json: options.Json = False,
) -> None:
    """List the methods."""
    from rich import box
    from rich.table import Table

    roles = METHOD_ROLES if role is None else (_role_named(role),)
    found = [(one, name, summary(one, name)) for one in roles for name in names(one)]
    if as_json:
        print_json([{"role": one, "kind": name, "summary": text} for one, name, text in found])
        return

    table = Table("role", "kind", "what it is", box=box.SIMPLE_HEAD, pad_edge=False)
    for one, name, text in found:
        table.add_row(one, name, text)
    table_console().print(table)


def show(
    kind: Annotated[
        str,
        typer.Argument(
            help="A method, like badnets. Write detectors/strip if two roles have the name."
        ),
    ],
    as_json: options.Json = False,
) -> None:
    """Show a method: what it is, and its fields with types, defaults and bounds."""
    from raybd.cli.method_page import method_page

    role_name, _, name = kind.rpartition("/")
    # torchvision:resnet50 is one of many models of the kind torchvision.
    name = name.partition(":")[0]
    candidates = (_role_named(role_name),) if role_name else METHOD_ROLES
    roles = [role for role in candidates if name in names(role)]
    if not roles:
        known = [known for role in METHOD_ROLES for known in names(role)]
        raise UserError(f"unknown method {kind!r}", did_you_mean(name, known))

    # Two roles may have a method of this name: both are shown.
    for role in roles:
        found = method_class(role, name)
        if as_json:
            print_json({"role": role, "kind": name, **found.model_json_schema()})
        else:
            table_console().print(method_page(role, name, found))


def _role_named(word: str) -> Role:
    """Return the role that a user means: `detector`, `detectors`, `training-defenses`."""
    # The table says `training_defenses`; people write a hyphen, or the singular.
    asked = word.replace("-", "_")
    for role in METHOD_ROLES:
        if asked in (role, singular(role).replace(" ", "_")):
            return role
    raise UserError(f"unknown role {word!r}", did_you_mean(asked, METHOD_ROLES))
