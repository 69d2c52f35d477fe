"""Names in messages: the nearest to one that does not exist, the first of many."""

import difflib
from collections.abc import Iterable, Sequence


def did_you_mean(name: str, known: Iterable[str], otherwise: str = "", *, n: int = 3, cutoff: float = 0.5) -> str:
    """`did you mean a, b?` with the at most `n` known names that are near; `otherwise` if none is."""
    near = difflib.get_close_matches(name, list(known), n=n, cutoff=cutoff)
    return f"did you mean {', '.join(near)}?" if near else otherwise


def some(names: Sequence[str]) -> str:
    """The first three of the names, with `…` where there are more."""
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
