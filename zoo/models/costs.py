"""Parameters and MACs of the registered networks, train structure and deployed.

Counting a network takes a second or two, so the figures of ours are data, costs.json beside this file; a test counts
them all again. A new network is counted by `zoo list NAME --count`.
"""

from __future__ import annotations

import functools
import json
from importlib import resources

from zoo.registry import create_model
from zoo.reparam.deploy import deploy_with_report

Change = tuple[int, int]
"""(train structure, deployed)."""


def costs(name: str, *, count: bool = False) -> tuple[Change, Change]:
    """(parameters, multiply-accumulates per image of the declared size) of a registered network.

    Args:
        name: The registry name.
        count: Count now, on the meta device, even if the figures are known.
    """
    if not count and name in _bundled():
        params, macs = _bundled()[name]
        return (params[0], params[1]), (macs[0], macs[1])
    report = deploy_with_report(create_model(name, device="meta").eval())[1]
    return report.params, report.macs


@functools.cache
def _bundled() -> dict[str, list[list[int]]]:
    return json.loads(resources.files("zoo.models").joinpath("costs.json").read_text("utf-8"))
