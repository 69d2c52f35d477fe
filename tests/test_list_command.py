"""`zoo list`."""

import json

import pytest

import zoo
from zoo.cli.main import main


def listing(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[list[str], dict[str, dict]]:
    """The lines of the table under its title, and the JSON object by name."""
    assert main(["list", *argv]) == 0
    _, *lines, last = capsys.readouterr().out.splitlines()
    return lines, {row["name"]: row for row in json.loads(last)["networks"]}


def test_every_network_is_listed_with_its_costs(capsys):
    lines, rows = listing(capsys)
    assert list(rows) == zoo.list_models() and len(lines) == len(rows)
    assert rows["dbb_resnet18"]["params"] == [26288296, 11684712]
    assert rows["repghostnet_1.0x"]["macs"] == [142394128, 142394128]
    assert {row["family"] for row in rows.values()} >= {"RepVGG", "ACNet", "DBB", "RepGhostNet", "MobileOne", "YOLOv7"}


def test_published_accuracy_comes_with_its_source_and_where_weights_are(capsys):
    lines, rows = listing(capsys, "*resnet18")
    assert rows["dbb_resnet18"]["top1"] == 70.99
    assert rows["dbb_resnet18"]["source"] == "DBB paper, Table 2"
    assert not rows["dbb_resnet18"]["pretrained"]
    (line,) = [line for line in lines if line.startswith("dbb_resnet18 ")]
    assert "26.29 -> 11.68" in line and "download ResNet-18_DBB_7101.pth by hand; DBB paper, Table 2" in line


def test_weights_that_can_be_fetched_are_marked(capsys):
    lines, rows = listing(capsys, "mobileone_s0")
    assert rows["mobileone_s0"]["pretrained"] and "pretrained=True" in lines[0]


def test_counting_gives_the_bundled_figures(capsys):
    bundled, counted = (listing(capsys, "alexnet", *flags)[1]["alexnet"] for flags in ([], ["--count"]))
    assert bundled == counted


def test_a_pattern_that_matches_nothing_is_an_error(capsys):
    assert main(["list", "resnext*"]) == 2
    assert "no network matches 'resnext*'" in capsys.readouterr().err
