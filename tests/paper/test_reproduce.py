"""Every params, FLOPs and MULs cell of the papers, to the printed digit, and what the other cells say."""

from pathlib import Path

import pytest
import yaml

import zoo
from zoo.cost import count
from zoo.paper.accuracies import Accuracy
from zoo.paper.render import render
from zoo.paper.reproduce import (
    DIFFERS,
    EXACT,
    MEASURED_HERE,
    NOT_IN_ZOO,
    NOT_MEASURED,
    NOT_PUBLISHED,
    Cell,
    build,
    rank_correlation,
    reproduce,
)
from zoo.published import tables

COUNTS = yaml.safe_load((Path(__file__).parents[1] / "support" / "paper_counts.yaml").read_text())
COMPUTED = [
    pytest.param(table, row, id=f"{table.name}-{row.name}")
    for table in tables.tables()
    if any(column.kind in tables.COMPUTED for column in table.columns)
    for row in table.rows
]


def cells(table: str, row: str, **options) -> dict[str, Cell]:
    """Column key → cell of one row."""
    found = tables.table(table)
    rows = [r for r in found.rows if r.name == row]
    return {cell.column: cell for cell in reproduce(found, rows, **options).cells}


def published_errata() -> dict[tuple[str, str, str], str]:
    """The printed cells that the papers' own conventions do not give, and what they give."""
    return {
        ("repvgg_table4", "RegNetX-3.2GF", "winograd_muls"): "2.6",
        ("repvgg_table4", "ResNeXt-101", "winograd_muls"): "7.7",
        ("repvgg_table5", "RegNetX-12GF", "winograd_muls"): "9.9",
        ("repvgg_table5", "EfficientNet-B3", "params"): "12.18",
    }


@pytest.mark.parametrize("table, row", COMPUTED)
def test_every_computed_cell_reproduces_to_the_printed_digit(table: tables.Table, row: tables.Row):
    computed = {column.key for column in table.columns if column.kind in tables.COMPUTED}
    for cell in reproduce(table, [row]).cells:
        if cell.column not in computed:
            continue
        erratum = published_errata().get((table.name, row.name, cell.column))
        if cell.published is None:
            assert cell.status == NOT_PUBLISHED and cell.ours
        elif erratum:
            assert (cell.status, cell.ours) == (DIFFERS, erratum)
            assert cell.ours == str(table.errata[cell.column].ours[row.name])
            assert cell.note == table.errata[cell.column].why
        else:
            assert (cell.status, cell.ours) == (EXACT, cell.published)
        check_against_other_counts(cell)


def check_against_other_counts(cell: Cell) -> None:
    """Networks of ours, beyond the printed digits: what others counted (tests/support/paper_counts.yaml)."""
    expected = COUNTS.get(cell.model, {})
    structure = "train_params" if "mmacs" in expected else "deployed_params"  # RepGhost prints the former
    digits = {"gmacs": (1e9, 4), "mmacs": (1e6, 2), "gmuls": (1e9, 4)}
    keys = {"params": (structure,), "flops": ("gmacs", "mmacs"), "winograd_muls": ("gmuls",)}[cell.column]
    for key in set(keys) & set(expected):
        scale, places = digits.get(key, (1, 0))
        assert cell.value is not None
        assert round(cell.value / scale, places) == expected[key]


def test_the_errata_in_the_data_are_these_and_no_others():
    listed = {
        (table.name, row, column)
        for table in tables.tables()
        for column, erratum in table.errata.items()
        for row in erratum.ours
    }
    assert listed == set(published_errata())


def test_mobileones_unconfirmed_cells_show_only_ours():
    s0 = cells("mobileone", "MobileOne-S0")
    assert (s0["params"].published, s0["params"].ours) == (None, "2.1")
    assert (s0["flops"].published, s0["flops"].ours, s0["flops"].value) == (None, "275", 275110400)


def test_the_branch_ablation_builds_the_networks_it_names():
    rows = {row.block: row for row in tables.table("repvgg_table6").rows}
    train = {block: count(build(row)).params for block, row in rows.items()}
    # 14339048 deployed, with a bias where training has scale and shift; sums over the 28 layers' widths.
    channels, with_identity = 64 + 4 * 64 + 6 * 128 + 16 * 256 + 1280, 3 * 64 + 5 * 128 + 15 * 256
    plain = 14339048 + channels
    assert train == {
        "kxk": plain,
        "kxk+identity": plain + 2 * with_identity,
        "kxk+1x1": 15817960 - 2 * with_identity,
        "kxk+1x1+identity": 15817960,
    }
    assert count(zoo.deploy(build(rows["kxk+1x1"]), verify=False)).params == 14339048


def test_an_accuracy_needs_imagenet_until_its_results_are_given():
    row = "RepGhostNet 1.0x"
    without = cells("repghost_figure", row)
    assert (without["top1"].status, without["top1"].published, without["top1"].ours) == (
        "needs ImageNet",
        "74.2",
        None,
    )
    accuracies = {("repghostnet_1.0x", None): Accuracy(top1=74.208, top5=None, file="results.json")}
    given = cells("repghost_figure", row, accuracies=accuracies)
    assert (given["top1"].status, given["top1"].ours, given["top1"].value) == (MEASURED_HERE, "74.2", 74.208)
    assert given["top1"].note == "results.json"


def test_a_result_without_top5_leaves_that_cell_open():
    accuracies = {("acnet_resnet18", None): Accuracy(top1=71.0, top5=None, file="f.json")}
    row = cells("acnet_imagenet", "ResNet-18", accuracies=accuracies)
    assert (row["acnet_top1"].status, row["acnet_top5"].status) == (MEASURED_HERE, NOT_PUBLISHED)


def test_a_column_per_block_takes_each_blocks_results():
    accuracies = {
        (name, None): Accuracy(top1=top1, top5=None, file="f.json")
        for name, top1 in (("resnet18", 70.0), ("acnet_resnet18", 71.0), ("dbb_resnet18", 72.0))
    }
    row = cells("dbb_table2", "ImageNet ResNet-18", accuracies=accuracies)
    assert [(cell.published, cell.ours) for cell in row.values()] == [
        ("69.54", "70.00"),
        ("70.53", "71.00"),
        ("70.99", "72.00"),
    ]


def test_results_of_an_ablation_are_told_apart_by_block():
    accuracies = {("repvgg_b0", "kxk"): Accuracy(top1=72.0, top5=None, file="f.json")}
    assert cells("repvgg_table6", "no identity, no 1x1", accuracies=accuracies)["top1"].ours == "72.00"
    assert cells("repvgg_table6", "1x1", accuracies=accuracies)["top1"].status == "needs ImageNet"


def test_an_accuracy_on_cifar_needs_those_images_and_is_told_by_its_network():
    accuracies = {("dbb_vgg16_cifar100", None): Accuracy(top1=75.7, top5=None, file="f.json")}
    ten, hundred = (cells("dbb_table2", f"CIFAR-{n} VGG-16", accuracies=accuracies)["dbb"] for n in (10, 100))
    assert (ten.status, ten.published, ten.ours) == ("needs CIFAR-10", "94.62 ± 0.02", None)
    assert (hundred.status, hundred.published, hundred.ours) == (MEASURED_HERE, "75.72 ± 0.07", "75.70")


def test_networks_outside_the_zoo_say_so_and_why():
    start = cells("dbb_table4", "baseline + init (converted full DBB-Net as init)")["top1"]
    assert (start.status, start.published) == (NOT_IN_ZOO, "69.67")
    absent = [(table, row) for table in tables.tables() for row in table.rows if row.model is None]
    assert len(absent) == 9
    for table, row in absent:
        assert len(row.why_not.split()) > 5 and row.why_not.endswith(".")
        reproduction = reproduce(table, [row])
        assert {cell.note for cell in reproduction.cells} == {row.why_not}
        assert f"Not in the zoo: {row.name}. {row.why_not}" in render(reproduction, "text")


def test_unconfirmed_accuracies_are_not_published():
    acnet = cells("acnet_imagenet", "ResNet-18")
    assert {(cell.published, cell.status) for cell in acnet.values()} == {(None, NOT_PUBLISHED)}
    assert cells("repvgg_table6", "identity")["speed"].status == NOT_PUBLISHED


def test_times_are_compared_by_rank_and_ratio():
    table = tables.table("repghost_figure")
    rows = [row for row in table.rows if row.name in ("RepGhostNet 0.5x", "RepGhostNet 1.0x", "RepGhostNet 2.0x")]
    seconds = {(row.name, "latency"): s for row, s in zip(rows, (0.010, 0.020, 0.015), strict=True)}
    done = reproduce(table, rows, measurements=seconds)
    latency = {cell.row: cell for cell in done.cells if cell.column == "latency"}
    assert [cell.ours for cell in latency.values()] == [
        "0.50x (paper 0.40x)",
        "1.00x (paper 1.00x)",
        "0.75x (paper 3.05x)",
    ]
    assert latency["RepGhostNet 2.0x"].note == "relative to RepGhostNet 1.0x"
    assert {cell.status for cell in latency.values()} == {MEASURED_HERE}
    (comparison,) = done.comparisons
    assert (comparison.column, comparison.reference, comparison.rows) == ("latency", "RepGhostNet 1.0x", 3)
    assert comparison.rank_correlation == pytest.approx(0.5)


def test_the_first_row_is_the_reference_where_the_tables_own_was_not_measured():
    table = tables.table("repghost_figure")
    done = reproduce(table, table.rows[:1], measurements={("RepGhostNet 0.5x", "latency"): 0.01})
    assert done.cells[0].ours == "1.00x (paper 1.00x)" and done.comparisons[0].reference == "RepGhostNet 0.5x"
    assert done.comparisons[0].rank_correlation is None


def test_times_nobody_measured_say_so():
    assert cells("repghost_figure", "RepGhostNet 1.0x")["latency"].status == NOT_MEASURED


@pytest.mark.parametrize(
    "first, second, expected",
    [
        ([1, 2, 3], [10, 20, 30], 1.0),
        ([1, 2, 3], [3, 2, 1], -1.0),
        ([1, 2, 3, 4, 5], [2, 1, 4, 3, 5], 0.8),  # 1 - 6 * 4 / (5 * 24)
        ([1, 2, 2, 3], [1, 2, 3, 4], 0.9486832980505138),  # Pearson of ranks 0, 1.5, 1.5, 3 and 0, 1, 2, 3
        ([1, 2], [2, 1], None),
        ([1, 1, 1], [1, 2, 3], None),
    ],
)
def test_rank_correlation(first: list[float], second: list[float], expected: float | None):
    assert rank_correlation(first, second) == (expected and pytest.approx(expected))
