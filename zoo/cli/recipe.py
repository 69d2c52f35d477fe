"""Read a recipe: YAML of plain values, by the rules of YAML 1.2, where `1:30` is no number and `no` no boolean."""

import re
from pathlib import Path
from typing import Any

import yaml

from zoo.cli.errors import UsageError

MAX_DEPTH, MAX_BYTES = 8, 2**20
PLAIN_SCALARS = {
    "null": r"~|null|",
    "bool": r"true|false",
    "int": r"[-+]?\d+",
    "float": r"[-+]?(\d+(\.\d*)?|\.\d+)(e[-+]?\d+)?|[-+]?\.inf|\.nan",
}


class _Loader(yaml.SafeLoader):
    """Refuses what a recipe has no use for: keys given twice, aliases (which can multiply), deep nesting, tags."""

    yaml_implicit_resolvers = {}
    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise yaml.MarkedYAMLError(
                problem=f"alias *{event.anchor}: write the value out", problem_mark=event.start_mark
            )
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem=f"nested more than {MAX_DEPTH} deep", problem_mark=event.start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        for position, (key, _) in enumerate(node.value):
            if key.value in keys[:position]:
                raise yaml.MarkedYAMLError(problem=f"key '{key.value}' is given twice", problem_mark=key.start_mark)
        return super().construct_mapping(node, deep)


for _tag, _pattern in PLAIN_SCALARS.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^({_pattern})$", re.IGNORECASE), None)
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(node.value))  # YAML 1.1's 010 is eight


def read_yaml(text: str, source: str) -> Any:
    """The value of a YAML text. Raises: UsageError, one line that starts with `source`."""
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError) as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise UsageError(
            f"{source}{where}: not readable as YAML: {' '.join((problem or str(error)).split())}"
        ) from None


def read_recipe(file: Path) -> dict[str, Any]:
    """The settings in a file. Raises: UsageError."""
    try:
        if file.stat().st_size > MAX_BYTES:
            raise UsageError(f"{file}: larger than {MAX_BYTES} bytes, which no recipe is")
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file}: not readable as YAML: {error}") from None
    values = read_yaml(text, str(file))
    if not isinstance(values, dict):
        raise UsageError(f"{file}: expected lines 'key: value', got {type(values).__name__}")
    return {str(key): value for key, value in values.items()}
