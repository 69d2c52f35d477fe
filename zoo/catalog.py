"""What is known of the registered networks without building one: the figures that `zoo list` shows.

They are data, catalog.json beside this file, so that listing needs no torch. `zoo list --count --json` collects and
counts them anew; tests compare them with the registry, the papers and the count.
"""

import functools
import json
import re
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal

from zoo.settings import positional


@dataclass(kw_only=True)
class ListConfig:
    """Show the registered networks, what they cost and what was published of them.

    Parameters and multiply-accumulates (for one image of the size the network declares) are train -> deployed.
    """

    pattern: str = positional("[PATTERN]", "*")
    """shell pattern on the name, e.g. 'dbb_*'"""
    family: str | None = None
    """only networks of this family: RepVGG, ACNet, DBB, …"""
    sort: Literal["name", "family", "params", "macs", "top1"] = "name"
    """order; params and macs are the deployed network's"""
    count: bool = False
    """count costs now instead of reading the bundled figures"""


@functools.cache
def catalog() -> dict[str, dict[str, Any]]:
    """Every registered network by name, in natural order.

    family; params and macs (train, deployed); top1 (%) and its source; weights (where they are), pretrained (whether
    they can be fetched).
    """
    text = resources.files("zoo").joinpath("catalog.json").read_text("utf-8")
    return {row["name"]: row for row in json.loads(text)["networks"]}


def natural(name: str) -> list[Any]:
    """Sort key by which 0.5x stands before 0.58x and s2 before s10."""
    return [float(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+(?:\.\d+)?)", name))]
