"""The names that others give to the weights of our networks: tables of renames, one row a part.

A layout translates each native key by its rules, regular expressions applied in order. Natively a block's branches
are `….branches.NAME.…`; in the deployed structure its one convolution is spelt `….branches.fused.…` here, so that
a rule can tell it from a convolution that was plain all along. A rule with None for a translation says that the
layout does not have that part. The translation must be one to one; reading a file is its inverse.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatch

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
    """

    name: str
    models: str
    mark: str
    rules: Rules
    keeps_norms: bool = False

    def names(self, keys: Iterable[str], blocks: Iterable[str] = ()) -> dict[str, str] | None:
        """{their name: native name}, or None if the layout has no name for some branch.

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
            if ".branches." in theirs:
                return None
            assert theirs not in names, f"{self.name}: {key} and {names[theirs]} are both {theirs}"
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


def _stages(native: str, theirs: str, count: int = 4) -> Rules:
    """Stages counted from 0 by us and from 1 by them."""
    return tuple((rf"^{native}\.{i}\.", f"{theirs}{i + 1}.") for i in range(count))


_TIMM_REPVGG = Layout(
    "timm",
    "repvgg_*",
    r"\.conv_kxk\.conv\.|\.reparam_conv\.",
    (
        (r"\.conv\.branches\.kxk\.", ".conv_kxk."),
        (r"\.conv\.branches\.1x1\.", ".conv_1x1."),
        (r"\.conv\.branches\.identity\.bn\.", ".identity."),
        (r"\.conv\.branches\.fused\.", ".reparam_conv."),
        (r"\.se\.", ".attn."),
    ),
)

_REPVGG_BRANCHES: Rules = (
    (r"\.conv\.branches\.kxk\.", ".rbr_dense."),
    (r"\.conv\.branches\.1x1\.", ".rbr_1x1."),
    (r"\.conv\.branches\.identity\.bn\.", ".rbr_identity."),
    (r"\.conv\.branches\.fused\.", ".rbr_reparam."),
    (r"^stem\.", "stage0."),
    (r"^head\.fc\.", "linear."),
)

# DingXiaoH/RepVGG, repvgg.py
_REPVGG = Layout(
    "official",
    "repvgg_*",
    r"\.rbr_(dense|reparam)\.",
    (
        *_REPVGG_BRANCHES,
        *_stages("stages", "stage"),
        (r"\.se\.fc1\.", ".se.down."),
        (r"\.se\.fc2\.", ".se.up."),
    ),
)

# DingXiaoH/RepVGG, repvggplus.py: stage 3 in two halves, with an auxiliary head between them
_REPVGGPLUS = Layout(
    "official",
    "repvggplus_*",
    r"\.blocks\.0\.rbr_(dense|reparam)\.",
    (
        *_REPVGG_BRANCHES,
        (r"\.se\.fc1\.", ".post_se.down."),
        (r"\.se\.fc2\.", ".post_se.up."),
        (r"^stages\.2\.(\d|1[01])\.", r"stage3_first.blocks.\1."),
        *((rf"^stages\.2\.{12 + i}\.", f"stage3_second.blocks.{i}.") for i in range(12)),
        (r"^stages\.0\.", "stage1.blocks."),
        (r"^stages\.1\.", "stage2.blocks."),
        (r"^stages\.3\.", "stage4.blocks."),
        (r"^aux_heads\.(\d)\.0\.", r"aux_heads.\1.0.conv."),
        (r"^aux_heads\.(\d)\.1\.", r"aux_heads.\1.0.bn."),
        (r"^aux_heads\.(\d)\.3\.fc\.", r"aux_heads.\1.3."),
        (r"^aux_heads\.0\.", "stage1_aux."),
        (r"^aux_heads\.1\.", "stage2_aux."),
        (r"^aux_heads\.2\.", "stage3_first_aux."),
    ),
)

NATIVE = Layout("zoo", "*", "", ())
LAYOUTS = (_REPVGG, _REPVGGPLUS, _TIMM_REPVGG)


def layouts_of(model: str) -> list[Layout]:
    """The layouts for a registered name."""
    return [layout for layout in LAYOUTS if fnmatch(model, layout.models)]
