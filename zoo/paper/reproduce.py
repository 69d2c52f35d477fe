"""A published table beside ours, cell by cell.

Parameters, FLOPs and Winograd multiplications are computed and compared to the printed digit. Times depend on
the machine: they are compared by rank correlation and by their ratio to one row of the table. Accuracies come
from the user's own evaluation on the validation images; without one the cell says so.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from scipy import stats
from timm.models.resnet import Bottleneck
from torch import nn

import zoo
from zoo.cost import Cost, count
from zoo.paper.accuracies import Accuracies
from zoo.published import tables

EXACT = "exact"
DIFFERS = "differs"
MEASURED_HERE = "measured here"
NOT_MEASURED = "not measured"
NOT_PUBLISHED = "not published"
NOT_IN_ZOO = "not in the zoo"

Measurements = Mapping[tuple[str, str], float]
"""(row name, column key) → what this machine measured, in SI units (s, images/s, bytes)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell: the figure as printed, ours printed alike (a ratio where times are compared), and a status.

    value: ours in units of one, unrounded. model: what was built or evaluated, None if the zoo has none; then `note`
    says why.
    """

    row: str
    column: str
    model: str | None
    status: str
    published: str | None = None
    ours: str | None = None
    value: float | None = None
    note: str = ""


NewCell = Callable[..., Cell]
"""A cell that lacks its status, and what of ours is in it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """Agreement of a measured column with the published one: Spearman's rank correlation over `rows` rows."""

    column: str
    reference: str
    rows: int
    rank_correlation: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reproduction:
    """A table, its cells in reading order, and the comparison of each measured column."""

    table: tables.Table
    cells: list[Cell]
    comparisons: list[Comparison]

    def summary(self) -> dict[str, int]:
        """Count the cells of each status."""
        return dict(Counter(cell.status for cell in self.cells))


def reproduce(
    table: tables.Table,
    rows: Sequence[tables.Row] | None = None,
    *,
    accuracies: Accuracies | None = None,
    measurements: Measurements | None = None,
) -> Reproduction:
    """Fill every cell of `table`, or of some of its `rows`.

    Raises:
        ValueError: a row names a network that is not registered.
    """
    rows = table.rows if rows is None else rows
    comparisons = [
        _compare(table, rows, column, measurements)
        for column in table.columns
        if measurements and column.kind in tables.MEASURED
    ]
    reference = {comparison.column: comparison.reference for comparison in comparisons}
    cells = []
    for row in rows:
        costs = _costs(table, row)
        for column in table.columns:
            model = column.prefix + row.model if row.model else None
            cell = partial(Cell, row=row.name, column=column.key, model=model, published=row.published(column))
            if column.kind in tables.COMPUTED:
                cells.append(_computed(cell, table, row, column, costs.get(column.structure)))
            elif column.kind in tables.ACCURACY:
                cells.append(_accuracy(cell, row, column, accuracies or {}))
            else:
                cells.append(_measured(cell, table, row, column, measurements or {}, reference.get(column.key)))
    return Reproduction(table=table, cells=cells, comparisons=comparisons)


def build(row: tables.Row, device: str = "meta") -> nn.Module:
    """The network of a row in train structure and eval mode, with fresh weights.

    Raises:
        ValueError: the network is not registered.
    """
    assert row.model is not None, row.name
    with torch.device(device):
        model = zoo.create_model(row.model, block=row.block).eval()
    if row.stride_in_first_1x1:
        stride_in_first_1x1(model)
    return model


def stride_in_first_1x1(model: nn.Module) -> None:
    """Turn timm's ResNet-50 and deeper into the original ones (arXiv 1512.03385), in place.

    There the first 1x1 of a bottleneck has the stride, not the 3x3; the paper's FLOPs are of those.
    """
    for module in model.modules():
        if isinstance(module, Bottleneck):
            module.conv1.stride, module.conv2.stride = module.conv2.stride, module.conv1.stride


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's rank correlation, ties at their mean rank; None for fewer than three pairs or a constant."""
    assert len(first) == len(second)
    if len(first) < 3 or len(set(first)) == 1 or len(set(second)) == 1:
        return None
    return stats.pearsonr(stats.rankdata(first), stats.rankdata(second)).statistic


def _costs(table: tables.Table, row: tables.Row) -> dict[str, Cost]:
    """Count a row's cost in each structure that a computed column is about; empty if the zoo has none."""
    structures = {column.structure for column in table.columns if column.kind in tables.COMPUTED}
    if row.model is None or not structures:
        return {}
    model, size = build(row), (3, row.input_size, row.input_size)
    networks = {"train": lambda: model, "deployed": lambda: zoo.deploy(model, verify=False)}
    return {structure: count(networks[structure](), size) for structure in structures}


def _computed(cell: NewCell, table: tables.Table, row: tables.Row, column: tables.Column, cost: Cost | None) -> Cell:
    if cost is None:
        return cell(status=NOT_IN_ZOO, note=row.why_not)
    value = getattr(cost, column.kind)
    ours, published = column.text(value), row.published(column)
    if published is None:
        return cell(status=NOT_PUBLISHED, ours=ours, value=value)
    erratum = table.errata.get(column.key)
    note = erratum.why if erratum and row.name in erratum.ours else ""
    return cell(status=EXACT if ours == published else DIFFERS, ours=ours, value=value, note=note)


def _accuracy(cell: NewCell, row: tables.Row, column: tables.Column, accuracies: Accuracies) -> Cell:
    found = accuracies.get((column.prefix + row.model, row.block)) if row.model else None
    if found and (value := getattr(found, column.kind)) is not None:
        return cell(status=MEASURED_HERE, ours=column.text(value), value=value, note=found.file)
    if row.published(column) is None:
        return cell(status=NOT_PUBLISHED, note=row.why_not)
    return cell(status=f"needs {row.images}" if row.model else NOT_IN_ZOO, note=row.why_not)


def _measured(
    cell: NewCell,
    table: tables.Table,
    row: tables.Row,
    column: tables.Column,
    measurements: Measurements,
    reference: str | None,
) -> Cell:
    value = measurements.get((row.name, column.key))
    if value is None:
        status = NOT_IN_ZOO if row.model is None else NOT_MEASURED
        return cell(status=NOT_PUBLISHED if row.published(column) is None else status, note=row.why_not)
    assert reference is not None
    ratio = f"{value / measurements[reference, column.key]:.2f}x"
    base = next(r for r in table.rows if r.name == reference)
    if row.published(column) and base.published(column):
        ratio += f" (paper {_number(row, column) / _number(base, column):.2f}x)"
    return cell(status=MEASURED_HERE, ours=ratio, value=value, note=f"relative to {reference}")


def _number(row: tables.Row, column: tables.Column) -> float:
    value = row.values[column.key]
    assert isinstance(value, (int, float)), (row.name, column.key)
    return value


def _compare(
    table: tables.Table, rows: Sequence[tables.Row], column: tables.Column, measurements: Measurements
) -> Comparison:
    measured = [row for row in rows if (row.name, column.key) in measurements]
    names = [row.name for row in measured]
    reference = table.reference if table.reference in names or not names else names[0]
    both = [row for row in measured if row.published(column)]
    correlation = rank_correlation(
        [_number(row, column) for row in both], [measurements[row.name, column.key] for row in both]
    )
    return Comparison(column=column.key, reference=reference or "", rows=len(both), rank_correlation=correlation)
