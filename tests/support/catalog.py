"""What the catalog says of a network's cost, for comparing."""

from zoo.catalog import catalog


def costs(name: str) -> tuple[tuple[int, int], tuple[int, int]]:
    """(train structure, deployed): parameters, and multiply-accumulates per image of the declared size."""
    row = catalog()[name]
    return (row["params"][0], row["params"][1]), (row["macs"][0], row["macs"][1])
