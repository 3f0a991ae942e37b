"""Loading YAML: within bounds, without objects of Python, and without repeated keys."""

from typing import Any

import yaml

from raybd.plan.yaml_limits import check_size

_MERGE = "tag:yaml.org,2002:merge"
"""The tag of the key `<<`, which takes the keys of other mappings."""


class RepeatedKey(Exception):
    """A key stands twice in one mapping. PyYAML would keep the last value, and say nothing."""

    def __init__(self, key: str, first_line: int, line: int) -> None:
        super().__init__(f"{key!r} is repeated; it stands in line {first_line}, too")
        self.line = line


class _Loader(yaml.SafeLoader):
    """A safe loader that refuses repeated keys."""

    def compose_mapping_node(self, anchor: Any) -> Any:
        """Read a mapping. Raises RepeatedKey."""
        # Later, merged keys would stand beside those that override them.
        node = super().compose_mapping_node(anchor)
        first_lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
                continue
            name = (key.tag, key.value)
            line = key.start_mark.line + 1
            if name in first_lines:
                raise RepeatedKey(key.value, first_lines[name], line)
            first_lines[name] = line
        return node


def loaded(text: str) -> Any:
    """Return what a text holds. Raises TooLarge, RepeatedKey or yaml.YAMLError."""
    check_size(text)
    return yaml.load(text, _Loader)
