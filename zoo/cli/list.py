"""`zoo list [PATTERN]`: the registered networks, what they cost, what was published of them."""

import argparse
import json
import sys
from typing import Any

from zoo.cli.errors import UsageError, report
from zoo.models.costs import costs
from zoo.paper.tables import published
from zoo.registry import list_models, model_entry


def main(argv: list[str] | None = None) -> int:
    """Print a line a network, then one JSON object; 0, or 2 if nothing matches."""
    argv = sys.argv[1:] if argv is None else argv
    return report("zoo list", lambda: _main(argv))


def _main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="zoo list",
        description="The registered networks: parameters and multiply-accumulates (for one image of the size the "
        "network declares) train -> deployed, published top-1, where weights are. The last line is JSON.",
    )
    parser.add_argument("pattern", nargs="?", default="*", help="shell pattern on the name, e.g. 'dbb_*'")
    parser.add_argument("--count", action="store_true", help="count costs now instead of reading the bundled figures")
    options = parser.parse_args(argv)

    names = list_models(options.pattern)
    if not names:
        raise UsageError(f"no network matches {options.pattern!r}; `zoo list` shows all")
    rows = []
    width = max(map(len, names))
    titles = f"{'network':{width}}  {'family':11}  {'params, M':>16}  {'MACs, M':>16}  {'top-1':>6}"
    print(f"{titles}  weights; source of top-1")
    for name in names:
        row = describe(name, count=options.count)
        rows.append(row)
        print(_line(row, width), flush=True)
    print(json.dumps({"networks": rows}))
    return 0


def describe(name: str, *, count: bool = False) -> dict[str, Any]:
    """What the listing says of one network; costs as (train, deployed)."""
    known = published(name)
    params, macs = costs(name, count=count)
    return {
        "name": name,
        "family": model_entry(name).family,
        "params": params,
        "macs": macs,
        "top1": known.top1 if known else None,
        "source": known.source if known and known.top1 is not None else None,
        "weights": (known.weights.hub or known.weights.note or known.weights.url) if known else None,
        "pretrained": bool(known and known.weights.hub),
    }


def _line(row: dict[str, Any], width: int) -> str:
    params, macs = (f"{a / 1e6:.2f} -> {b / 1e6:.2f}" for a, b in (row["params"], row["macs"]))
    top1 = "" if row["top1"] is None else str(row["top1"])
    weights = "pretrained=True" if row["pretrained"] else row["weights"] or "none published"
    source = f"; {row['source']}" if row["source"] else ""
    return f"{row['name']:{width}}  {row['family']:11}  {params:>16}  {macs:>16}  {top1:>6}  {weights}{source}"
