"""`zoo list`."""

import json

import pytest

import zoo
from zoo.catalog import catalog, natural
from zoo.cli.main import main
from zoo.published.tables import published


def listing(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[list[str], dict[str, dict]]:
    """The lines of the table under its title, and the JSON object of `--json` by name."""
    assert main(["list", *argv]) == 0
    _, *lines = capsys.readouterr().out.splitlines()
    assert main(["list", *argv, "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    return lines, {row["name"]: row for row in json.loads(line)["networks"]}


def test_every_network_is_listed_with_its_costs(capsys):
    lines, rows = listing(capsys)
    assert sorted(rows) == zoo.list_models() and len(lines) == len(rows)
    assert rows["dbb_resnet18"]["params"] == [26288296, 11684712]
    assert rows["repghostnet_1.0x"]["macs"] == [142394128, 142394128]
    assert {row["family"] for row in rows.values()} >= {"RepVGG", "ACNet", "DBB", "RepGhostNet", "MobileOne", "YOLOv7"}


def test_published_accuracy_comes_with_its_source_and_where_weights_are(capsys):
    lines, rows = listing(capsys, "*resnet18")
    assert rows["dbb_resnet18"]["top1"] == 70.99
    assert rows["dbb_resnet18"]["source"] == "DBB paper, Table 2"
    assert not rows["dbb_resnet18"]["pretrained"]
    (line,) = [line for line in lines if line.startswith("dbb_resnet18 ")]
    assert "26.29 -> 11.68" in line and line.split("  ")[-2:] == [
        "download ResNet-18_DBB_7101.pth by hand",
        "DBB paper, Table 2",
    ]


def test_weights_that_can_be_fetched_are_marked(capsys):
    lines, rows = listing(capsys, "mobileone_s0")
    assert rows["mobileone_s0"]["pretrained"] and "pretrained=True" in lines[0]


def test_counting_gives_the_bundled_figures(capsys):
    bundled, counted = (listing(capsys, "alexnet", *flags)[1]["alexnet"] for flags in ([], ["--count"]))
    assert bundled == counted


@pytest.mark.parametrize("name", zoo.list_models())
def test_the_catalog_says_what_the_registry_and_the_papers_say(name):
    """Costs are counted, network by network, in tests/models/test_models.py."""
    known = published(name)
    row = {key: value for key, value in catalog()[name].items() if key not in ("params", "macs")}
    assert row == {
        "name": name,
        "family": zoo.model_entry(name).family,
        "top1": known.top1 if known else None,
        "source": known.source if known and known.top1 is not None else None,
        "weights": (known.weights.hub or known.weights.note or known.weights.url) if known else None,
        "pretrained": bool(known and known.weights.hub),
    }


def test_names_stand_in_natural_order(capsys):
    names = list(listing(capsys, "repghostnet_[0-9]*")[1])
    assert names == [f"repghostnet_{width}x" for width in ("0.5", "0.58", "0.8", "1.0", "1.11", "1.3", "1.5", "2.0")]
    assert sorted(["s10", "s2", "s"], key=natural) == ["s", "s2", "s10"]


def test_the_list_can_be_sorted_and_narrowed_to_a_family(capsys):
    _, rows = listing(capsys, "--family", "repvgg", "--sort", "macs")
    assert {row["family"] for row in rows.values()} == {"RepVGG"} and len(rows) > 5
    macs = [row["macs"][1] for row in rows.values()]
    assert macs == sorted(macs)
    top1 = [row["top1"] or 0 for row in listing(capsys, "--sort", "top1")[1].values()]
    assert top1 == sorted(top1, reverse=True) and top1[0] > 80


@pytest.mark.parametrize(
    "argv, message",
    [
        (["resnext*"], "no network matches 'resnext*'"),
        (["repvgg_a9"], "no network matches 'repvgg_a9'; did you mean repvgg_a"),
        (["--family", "RepVG"], "no network of family 'RepVG' matches '*'; did you mean RepVGG"),
        (["--sort", "size"], "sort: expected one of name, family, params, macs, top1, got 'size'"),
    ],
)
def test_what_matches_nothing_is_an_error_that_names_the_nearest(capsys, argv, message):
    assert main(["list", *argv]) == 2
    error = capsys.readouterr().err
    assert error.startswith("zoo list: error: ") and message in error and error.count("\n") == 1
