"""What a file says is checked against a declared type before it is believed, and printed without control characters."""

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

Kind = TypeVar("Kind")

Text = Annotated[str, Meta(max_length=512)]
Count = Annotated[int, Meta(ge=0, le=2**53)]

MAX_DEPTH = 32
"""levels of containers in containers; a container that holds itself has no end of them"""
MAX_ITEMS = 1_000_000
"""items in all, counted as often as they are reached"""
MAX_KEY = 512
"""characters of a name"""


def typed(kind: type[Kind], value: Any) -> Kind:
    """Convert plain containers, numbers and strings to a declared type, a msgspec Struct or a dataclass.

    Types are strict (no `"3"` for 3, no `True` for 1), bounds are those of `msgspec.Meta`, unknown keys are dropped.
    Any file that holds data can be read so: `typed(Record, json.loads(path.read_text()))`.

    Raises:
        ValueError: One line that says where in the value what was expected; the caller adds the file's name.
    """
    check_bounds(value)
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        what, _, where = str(error).replace("`", "").partition(" - at ")
        raise ValueError(f"{where.replace('$.', '').replace('$', '') or 'its content'}: {what}") from None


def check_bounds(value: Any) -> None:
    """Refuse containers that are nested too deeply or in a circle, too many, or with names that are too long.

    Raises:
        ValueError: Says which.
    """
    waiting, items = [(value, 0)], 1
    while waiting:
        item, depth = waiting.pop()
        if isinstance(item, Mapping):
            if any(isinstance(key, str) and len(key) > MAX_KEY for key in item):
                raise ValueError(f"holds a name of more than {MAX_KEY} characters")
            children = item.values()
        elif isinstance(item, list | tuple | set | frozenset):
            children = item
        else:
            continue
        items += len(children)
        if depth >= MAX_DEPTH:
            raise ValueError(f"holds containers nested more than {MAX_DEPTH} deep, or in a circle")
        if items > MAX_ITEMS:
            raise ValueError(f"holds more than {MAX_ITEMS:,} items")
        waiting.extend((child, depth + 1) for child in children)


def printable(text: str) -> str:
    """Spell out characters that would steer a terminal (escape codes, line ends, changes of direction).

    >>> printable("a\\x1b[2Jb")
    'a\\\\x1b[2Jb'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
