"""Writes a page for each method, from its docstring and fields, when the site is built."""

import mkdocs_gen_files

from raybd.cli.method_page import FIELD_COLUMNS, description, field_rows
from raybd.registry import METHOD_ROLES, Role, method_class, names, summary


def page_of(role: Role, kind: str) -> str:
    """Return the page of a method as Markdown."""
    method = method_class(role, kind)
    headline, _, rest = description(method).partition("\n\n")
    lines = [f"# {kind}", "", headline, "", rest, ""]
    lines += ["## Fields", "", *_table(FIELD_COLUMNS, field_rows(method))]
    if not method.model_fields:
        lines += ["", "It has none."]
    lines += ["", f"In an experiment file: `{role}: [{{kind: {kind}}}]`.", ""]
    return "\n".join(lines)


def section_of(role: Role) -> str:
    """Return the table of the methods of a role as Markdown."""
    rows = [(f"[{kind}]({role}/{kind}.md)", summary(role, kind)) for kind in names(role)]
    return "\n".join([f"## {_title(role)}", "", *_table(("kind", "what it is"), rows), ""])


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    clean = [[_in_cell(text) for text in row] for row in rows]
    return ["| " + " | ".join(cells) + " |" for cells in [[*head], ["---"] * len(head), *clean]]


def _in_cell(text: str) -> str:
    """Return a text on one line; a bar would end the cell, and < begin a tag."""
    return " ".join(text.split()).replace("|", r"\|").replace("<", "&lt;")


def _title(role: Role) -> str:
    return role.replace("_", " ").capitalize()


with mkdocs_gen_files.open("methods/index.md", "w") as file:
    file.write("# Methods\n\n" + "\n".join(map(section_of, METHOD_ROLES)))
for role in METHOD_ROLES:
    for kind in names(role):
        with mkdocs_gen_files.open(f"methods/{role}/{kind}.md", "w") as file:
            file.write(page_of(role, kind))
