"""The published figures as data: complete, consistent with each other, silent about what is not confirmed."""

import subprocess
import sys

import pytest
import timm

import zoo
from zoo.published import tables


def test_every_table_of_the_papers_is_there():
    assert [table.name for table in tables.tables()] == [
        "repvgg_table4",
        "repvgg_table5",
        "repvgg_table6",
        "repvgg_table7",
        "dbb_table2",
        "dbb_table3",
        "dbb_table4",
        "acnet_imagenet",
        "acnet_cifar10",
        "repghost",
        "repghost_figure",
        "mobileone",
        "orepa_table4",
    ]
    assert [len(table.rows) for table in tables.tables()] == [19, 5, 4, 10, 6, 2, 8, 4, 5, 8, 20, 5, 18]


def test_reading_the_figures_does_not_import_torch():
    program = """
import sys
from zoo.published.tables import tables
assert tables()
print(sorted({"torch", "timm", "torchvision"} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("table", tables.tables(), ids=lambda table: table.name)
def test_a_table_is_consistent(table: tables.Table):
    names = [row.name for row in table.rows]
    keys = {column.key for column in table.columns}
    assert len(set(names)) == len(names)
    assert table.reference is None or table.reference in names
    assert table.paper["arxiv"] and table.source
    for row in table.rows:
        assert row.values and set(row.values) <= keys and set(row.unverified) <= set(row.values)
    for key, erratum in table.errata.items():
        assert key in keys and set(erratum.ours) <= set(names) and erratum.why
    measured = [column for column in table.columns if column.kind in tables.MEASURED]
    assert not measured or table.reference


def test_unverified_figures_are_never_published():
    hidden = {
        (table.name, row.name, column.key)
        for table in tables.tables()
        for row in table.rows
        for column in table.columns
        if column.key in row.values and row.published(column) is None
    }
    assert {name for name, _, _ in hidden} == {
        "repvgg_table6",
        "repvgg_table7",
        "acnet_imagenet",
        "mobileone",
    }
    assert len(hidden) == 4 + 6 + 12 + 10
    assert ("mobileone", "MobileOne-S0", "params") in hidden
    assert ("acnet_imagenet", "AlexNet", "acnet_top1") in hidden


def test_figures_read_off_a_picture_are_marked():
    figure = tables.table("repghost_figure")
    top1 = next(column for column in figure.columns if column.key == "top1")
    printed = {row.name: row.published(top1) for row in figure.rows}
    assert printed["GhostNet 0.5x"] == "~66.4" and printed["RepGhostNet 0.5x"] == "66.9"


def test_printing_follows_the_papers_rounding():
    down = tables.Column(key="p", label="", kind="params", digits=2, scale=1e6, rounding="down")
    assert [down.text(n) for n in (8309384, 14339048, 51829480)] == ["8.30", "14.33", "51.82"]
    half_up = tables.Column(key="f", label="", kind="macs", digits=1, scale=1e9)
    assert [half_up.text(n) for n in (1_350_000_000, 1_349_999_999, 747_302_912)] == ["1.4", "1.3", "0.7"]
    assert half_up.printed(18.4) == "18.4" and half_up.printed("93.95 ± 0.03") == "93.95 ± 0.03"


def test_what_was_published_of_a_registered_network():
    a0 = tables.published("repvgg_a0")
    assert a0 is not None and (a0.top1, a0.top5, a0.params_M) == (72.41, None, 8.3)
    assert a0.source == "RepVGG paper, Table 4"
    assert a0.weights.hub == "timm/repvgg_a0.rvgg_in1k" and (a0.weights.top1, a0.weights.top5) == (
        72.426,
        90.506,
    )

    # Its released weights are those of Table 5 (79.38), not of Table 4 (78.50).
    b2g4 = tables.published("repvgg_b2g4")
    assert b2g4 is not None and b2g4.top1 == 79.38 and b2g4.weights.top1 == 79.396

    ghost = tables.published("repghostnet_1.0x")
    assert ghost is not None and (ghost.top1, ghost.top5, ghost.params_M) == (74.2, 91.5, 4.1)

    # The ACNet paper's own figures are not confirmed; the DBB authors' run of ACNet is.
    acnet = tables.published("acnet_resnet18")
    assert acnet is not None and acnet.top1 == 70.53 and "DBB paper" in acnet.source
    assert acnet.weights.hub is None and acnet.weights.url is None and acnet.weights.note == "never released"

    assert tables.published("resnet18") is None


def test_an_unknown_table_lists_near_ones():
    with pytest.raises(ValueError, match=r"unknown table 'repvgg_tabel4'; did you mean repvgg_table4"):
        tables.table("repvgg_tabel4")
    with pytest.raises(ValueError, match=r"known: repvgg_table4, .*orepa_table4"):
        tables.table("?")


def test_every_network_named_exists():
    named = {
        column.prefix + row.model
        for table in tables.tables()
        for row in table.rows
        for column in table.columns
        if row.model and column.key in row.values
    }
    foreign = {name.removeprefix("timm/") for name in named if name.startswith("timm/")}
    assert len(foreign) == 18 and all(timm.is_model(name) for name in foreign)
    assert named - {f"timm/{name}" for name in foreign} <= set(zoo.list_models())


def test_every_network_of_the_papers_has_its_published_figures():
    papers = ("repvgg", "acnet_", "dbb_", "repghostnet_", "mobileone_", "orepa_")
    ours = {"repvgg_tiny", "repghostnet_norep_0.5x", "repghostnet_repid_0.5x", "repghostnet_wo_0.5x"}
    unpublished = {name for name in zoo.list_models() if tables.published(name) is None}
    assert {name for name in unpublished if name.startswith(papers)} == ours
