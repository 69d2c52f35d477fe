"""`zoo list [PATTERN]`: the registered networks, what they cost, what was published of them."""

import fnmatch
from typing import Any

from zoo.catalog import ListConfig, catalog, natural
from zoo.cli.errors import UsageError
from zoo.nearest import did_you_mean
from zoo.results.table import Column, Table

ORDERS = {
    "name": lambda row: natural(row["name"]),
    "family": lambda row: (row["family"], natural(row["name"])),
    "params": lambda row: row["params"][1],
    "macs": lambda row: row["macs"][1],
    "top1": lambda row: -(row["top1"] or 0),
}
COLUMNS = [
    Column("network", lambda row: row["name"]),
    Column("family", lambda row: row["family"]),
    Column("params, M", lambda row: millions(row["params"])),
    Column("MACs, M", lambda row: millions(row["macs"])),
    Column("top-1", lambda row: row["top1"]),
    Column("weights", lambda row: "pretrained=True" if row["pretrained"] else row["weights"] or "none published"),
    Column("source of top-1", lambda row: row["source"]),
]


def run(config: ListConfig) -> dict[str, Any]:
    """Print a line a network; the same as records. Raises: UsageError if nothing matches."""
    names = fnmatch.filter(catalog(), config.pattern)
    if not names:
        near = did_you_mean(config.pattern, catalog(), "`zoo list` shows all")
        raise UsageError(f"no network matches {config.pattern!r}; {near}")
    rows = [catalog()[name] for name in names]
    if config.family is not None:
        known = {row["family"].lower(): row["family"] for row in rows}
        if config.family.lower() not in known:
            near = did_you_mean(config.family, known.values(), f"there are {', '.join(known.values())}", cutoff=0.4)
            raise UsageError(f"no network of family {config.family!r} matches {config.pattern!r}; {near}")
        rows = [row for row in rows if row["family"] == known[config.family.lower()]]
    rows = sorted((describe(row["name"]) if config.count else row for row in rows), key=ORDERS[config.sort])
    print(Table(COLUMNS, rows).text())
    return {"networks": rows}


def describe(name: str) -> dict[str, Any]:
    """The row of the catalog for a network, collected anew; costs, as (train, deployed), are counted."""
    import zoo  # with torch, which reading the catalog does not need
    from zoo.published.tables import published

    known = published(name)
    report = zoo.deploy_with_report(zoo.create_model(name, device="meta").eval())[1]
    return {
        "name": name,
        "family": zoo.model_entry(name).family,
        "params": list(report.params),
        "macs": list(report.macs),
        "top1": known.top1 if known else None,
        "source": known.source if known and known.top1 is not None else None,
        "weights": (known.weights.hub or known.weights.note or known.weights.url) if known else None,
        "pretrained": bool(known and known.weights.hub),
    }


def millions(change: list[int]) -> str:
    """Train structure -> deployed."""
    train, deployed = change
    return f"{train / 1e6:.2f} -> {deployed / 1e6:.2f}"
