"""A layout: what others call the weights of our networks, as a table of renames (the tables are in `tables.py`).

A layout translates each native key by its rules, regular expressions applied in order. Natively a block's branches
are `….branches.NAME.…`; in the deployed structure its one convolution is spelt `….branches.fused.…` here, so that
a rule can tell it from a convolution that was plain all along. A rule with None for a translation says that the
layout does not have that part. The translation must be one to one; reading a file is its inverse.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

Rules = tuple[tuple[str, str | None], ...]


@dataclass(frozen=True)
class Layout:
    """One maker's names for one family.

    Attributes:
        name: `official`, `timm`, or `plain` (the network without blocks, for a warm start).
        models: Pattern of the registered names it is for.
        mark: Regular expression that some key of such a file matches, and of other layouts none.
        rules: (native, theirs).
        keeps_norms: Its deployed files keep the BatchNorms outside blocks.
        prefix: What stands before every name in its files; reading drops it (`read.WRAPPERS`).
        elsewhere: Regular expression of names, in its files, of parts that our network does not have. They are left
            out with a warning.
    """

    name: str
    models: str
    mark: str
    rules: Rules
    keeps_norms: bool = False
    prefix: str = ""
    elsewhere: str | None = None

    def names(self, keys: Iterable[str], blocks: Iterable[str] = ()) -> dict[str, str] | None:
        """{their name: native name}, or None if the layout is for other networks or has no name for some branch.

        Args:
            keys: Native keys of either structure.
            blocks: Names of the network's blocks.
        """
        if not self.rules:
            return {key: key for key in keys}
        blocks = set(blocks)
        names: dict[str, str] = {}
        for key in keys:
            theirs = self._translate(_spell_fused(key, blocks))
            if theirs is None:
                continue
            if ".branches." in theirs or theirs in names:
                return None
            names[theirs] = key
        return names

    def _translate(self, key: str) -> str | None:
        for pattern, replacement in self.rules:
            if replacement is None and re.search(pattern, key):
                return None
            key = re.sub(pattern, replacement or "", key)
        return key


def _spell_fused(key: str, blocks: set[str]) -> str:
    """`conv.weight` of a deployed block `conv` as `conv.branches.fused.weight`; any other key as it is."""
    module, _, tensor = key.rpartition(".")
    return f"{module}.branches.fused.{tensor}" if module in blocks else key
