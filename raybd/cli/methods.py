"""`raybd list` and `raybd show`: which methods there are, and what can be set."""

from typing import Annotated

import typer

from raybd.cli import completion, options
from raybd.cli.output import print_json, table_console
from raybd.registry import METHOD_ROLES, Role, did_you_mean, method_class, names, singular, summary
from raybd.types.errors import UserError


def list_(
    role: Annotated[
        str | None,
        typer.Argument(help=f"One of: {', '.join(METHOD_ROLES)}.", autocompletion=completion.roles),
    ] = None,
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
            help="A method, like badnets, or a module of your own, like mypkg.my_attack. Write "
            "detectors/strip if two roles have the name.",
            autocompletion=completion.methods,
        ),
    ],
    as_json: options.Json = False,
) -> None:
    """Show a method: what it is, and its fields with types, defaults and bounds."""
    role_name, _, name = kind.rpartition("/")
    # torchvision:resnet50 is one of many models of the kind torchvision.
    name = name.partition(":")[0]
    candidates = (_role_named(role_name),) if role_name else METHOD_ROLES
    if "." in name:
        _print_method(_role_of_own(name), name, as_json)
        return
    roles = [role for role in candidates if name in names(role)]
    if not roles:
        known = [known for role in METHOD_ROLES for known in names(role)]
        raise UserError(f"unknown method {kind!r}", did_you_mean(name, known))

    # Two roles may have a method of this name: both are shown.
    for role in roles:
        _print_method(role, name, as_json)


def _print_method(role: Role, name: str, as_json: bool) -> None:
    from raybd.cli.method_page import method_page

    found = method_class(role, name)
    if as_json:
        print_json({"role": role, "kind": name, **found.model_json_schema()})
    else:
        table_console().print(method_page(role, name, found))


def _role_of_own(name: str) -> Role:
    """Return the role of a module of the user's own, which may lie in the working folder."""
    from pathlib import Path

    from raybd.plan.entries import ROLE_CLASSES
    from raybd.plan.own_modules import make_importable

    make_importable(Path.cwd(), {"kind": name})
    # Whatever the role, the class is that of the module.
    found = method_class("attacks", name)
    for role, base in ROLE_CLASSES.items():
        if issubclass(found, base):
            return role
    raise UserError(
        f"{name}: {found.__name__} has no role",
        "Let it derive from a class of raybd.types.methods, like Attack or Detector.",
    )


def _role_named(word: str) -> Role:
    """Return the role that a user means: `detector`, `detectors`, `training-defenses`."""
    # The table says `training_defenses`; people write a hyphen, or the singular.
    asked = word.replace("-", "_")
    for role in METHOD_ROLES:
        if asked in (role, singular(role).replace(" ", "_")):
            return role
    raise UserError(f"unknown role {word!r}", did_you_mean(asked, METHOD_ROLES))
