"""`zoo paper TABLE`: formats, result files, measuring, the figure, one clear line for bad input."""

import csv
import io
import json
from pathlib import Path

import pytest
from PIL import Image

from zoo.bench.timing import Plan
from zoo.cli.main import main
from zoo.paper.accuracies import Accuracy, read_results
from zoo.paper.measure import measure
from zoo.published import tables


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = main(["paper", *argv])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_without_a_table_all_are_listed(capsys):
    code, out, _ = run(capsys)
    assert code == 0
    assert "repvgg_table4    RepVGG Table 4" in out
    _, out, _ = run(capsys, "--json")
    assert json.loads(out)["tables"] == [table.name for table in tables.tables()]


def test_text_has_every_cell_and_json_the_summary(capsys):
    code, out, _ = run(capsys, "repvgg_table5", "--rows", "RepVGG-B3")
    text = out.splitlines()
    assert code == 0
    _, out, errors = run(capsys, "repvgg_table5", "--rows", "RepVGG-B3", "--json")
    whole = json.loads(out)
    assert (whole["table"], whole["comparisons"]) == ("repvgg_table5", []) and text == errors.splitlines()
    assert whole["summary"] == {"needs ImageNet": 1, "not measured": 1, "exact": 3}
    (line,) = [line for line in text if line.startswith("RepVGG-B3")]
    for cell in (
        "80.52 / – needs ImageNet",
        "363 / – not measured",
        "110.96 / 110.96 exact",
        "12.9 / 12.9 exact",
    ):
        assert cell in line
    assert any("arXiv 2101.03697" in line for line in text)


def test_an_erratum_is_explained_under_the_table(capsys):
    _, out, _ = run(capsys, "repvgg_table5", "--rows", "RegNetX*")
    assert "10.9 / 9.9 differs" in out
    assert "Differs: RegNetX-12GF (Wino MULs (B)). With grouped stride-1 3x3 convolutions at 4/9" in out


def test_markdown_is_one_table(capsys):
    _, out, _ = run(capsys, "dbb_table3", "--format", "markdown")
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in out.splitlines() if line.startswith("|")]
    assert lines[0] == ["published / ours", "ImageNet top-1 (%)"]
    assert lines[2] == ["Original Res18", "69.54 / – needs ImageNet"]


def test_csv_has_a_line_a_cell(capsys):
    _, out, _ = run(capsys, "mobileone", "--format", "csv", "--rows", "*S0")
    lines = out.splitlines()
    records = list(csv.DictReader(io.StringIO("\n".join(lines))))
    assert [(r["column"], r["published"], r["ours"], r["status"]) for r in records] == [
        ("top1", "71.4", "", "needs ImageNet"),
        ("latency", "0.79", "", "not measured"),
        ("params", "", "2.1", "not published"),
        ("flops", "", "275", "not published"),
    ]


def test_json_is_the_only_line_and_holds_everything(capsys):
    _, out, _ = run(capsys, "repvgg_table4", "--json", "--rows", "repvgg_a0")
    (line,) = out.splitlines()
    data = json.loads(line)
    assert data["table"] == "repvgg_table4" and data["measurement"] is None
    assert {c["column"]: c["status"] for c in data["cells"]}["params"] == "exact"
    assert {c["column"]: c["value"] for c in data["cells"]}["flops"] == 1361451008


def test_output_goes_to_a_file_and_the_summary_to_stdout(capsys, tmp_path: Path):
    code, out, _ = run(capsys, "dbb_table3", "--format", "csv", "--output", str(tmp_path / "t.csv"), "--json")
    assert code == 0 and json.loads(out)["summary"] == {"needs ImageNet": 2}
    assert len((tmp_path / "t.csv").read_text().splitlines()) == 3


def test_accuracies_come_from_result_files(capsys, tmp_path: Path):
    (tmp_path / "a.json").write_text('{"model": "resnet18", "top1": 69.7, "count": 50000}')
    (tmp_path / "b.csv").write_text("model,top1,top5\ndbb_resnet18,71.01,90.1\n")
    _, out, _ = run(capsys, "dbb_table3", "--results", str(tmp_path / "a.json"), str(tmp_path / "b.csv"))
    assert "69.54 / 69.70 measured here" in out and "70.99 / 71.01 measured here" in out
    assert read_results([tmp_path / "b.csv"]) == {
        ("dbb_resnet18", None): Accuracy(top1=71.01, top5=90.1, file=str(tmp_path / "b.csv"))
    }


def test_validates_files_give_the_undistorted_accuracy_of_the_branch_set_they_are_of(tmp_path: Path):
    """As validate writes them; of the rows with other weights or distortions the first is the network's."""
    rows = [
        {"model": "dbb_resnet18", "block": "kxk+1x1", "network": "raw/train", "distort": distort, "top1": top1}
        for distort, top1 in (("none", 70.1), ("rot90", 40.0))
    ]
    (tmp_path / "a.json").write_text(json.dumps({"model": "dbb_resnet18", "top1": 70.1, "rows": rows}))
    with (tmp_path / "a.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    for file in (tmp_path / "a.json", tmp_path / "a.csv"):
        accuracy = Accuracy(top1=70.1, top5=None, file=str(file))
        assert read_results([file]) == {("dbb_resnet18", "kxk+1x1"): accuracy}


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("a.json", "{", "not a JSON or CSV file of results"),
        ("a.json", '{"top1": 70}', "record 1: Object missing required field `model`; a record has model, top1"),
        ("a.json", '[{"model": "m", "top1": 70}, {"model": "m"}]', "record 2: Object missing required field `top1`"),
        ("a.json", '{"model": "m", "top1": "x"}', "Expected `float`, got `str` - at `$.top1`"),
        ("a.json", '{"model": "m", "top1": 7041}', "Expected `float` <= 100.0 - at `$.top1`"),
        ("a.json", '{"model": "m", "top1": 91, "count": 2000}', "evaluated on 2000 images, not on ImageNet's 50000"),
        ("a.json", "[1]", "record 1: Expected `object`, got `int`"),
        ("a.csv", "model,distort,top1\nm,rot90,40\n", "record 1: evaluated on distorted images (rot90)"),
        ("a.json", '{"model": "m", "top1": 40, "rows": [{"model": "m", "top1": 40, "distort": "vflip"}]}', "(vflip)"),
        ("a.csv", "net,top1\nm,70\n", "record 1: Object missing required field `model`"),
        ("missing.json", None, "cannot be read: No such file or directory"),
    ],
)
def test_a_bad_result_file_is_one_clear_line(capsys, tmp_path: Path, name: str, text: str | None, message: str):
    file = tmp_path / name
    if text is not None:
        file.write_text(text)
    code, out, err = run(capsys, "dbb_table3", "--results", str(file))
    assert code == 2 and out == "" and err.count("\n") == 1
    assert str(file) in err and message in err


@pytest.mark.parametrize(
    "argv, message",
    [
        (["repvgg_tabel4"], "unknown table 'repvgg_tabel4'; did you mean repvgg_table4"),
        (["dbb_table3", "--rows", "x*"], "--rows x*: dbb_table3 has Original Res18, DBB-Res18"),
        (["repghost", "--measure-latency", "--rounds", "0"], "rounds: expected int >= 1, got '0'"),
        (["repghost", "--measure-latency", "--batch-size", "0"], "batch_size: expected int >= 1, got '0'"),
        (["repghost", "--rounds", "few"], "rounds: expected int, got 'few'"),
        (["dbb_table3", "--plot", "f.png"], "dbb_table3 has no accuracy-latency figure"),
        (["repghost_figure", "--plot", "f.jpg"], "plot: expected a name ending in .png, got 'f.jpg'"),
        (["repghost_figure", "--measure-latency", "--plot", "none/f.png"], "the folder of none/f.png does not exist"),
        (["dbb_table3", "--output", "none/t.txt"], "the folder of none/t.txt does not exist"),
    ],
)
def test_bad_input_is_one_clear_line(capsys, argv: list[str], message: str):
    code, _, err = run(capsys, *argv)
    assert code == 2 and err.count("\n") == 1 and message in err


def test_a_file_that_cannot_be_written_is_one_clear_line(capsys, tmp_path: Path):
    (tmp_path / "t.txt").mkdir()
    code, _, err = run(capsys, "dbb_table3", "--output", str(tmp_path / "t.txt"))
    assert code == 1 and err.count("\n") == 1 and "t.txt" in err


def test_latency_is_measured_on_request_with_its_provenance(capsys, tmp_path: Path):
    argv = [
        "repghost_figure",
        "--rows",
        "*Net 0.5x",
        "--measure-latency",
        "--img-size",
        "32",
        "--rounds",
        "2",
    ]
    code, out, _ = run(capsys, *argv, "--json", "--plot", str(tmp_path / "f.png"))
    data = json.loads(out)
    assert code == 0
    latency = {c["row"]: c for c in data["cells"] if c["column"] == "latency"}
    assert {c["status"] for c in latency.values()} == {"measured here"} and len(latency) == 2
    assert all(0 < c["value"] < 10 and "x (paper" in c["ours"] for c in latency.values())
    assert latency["RepGhostNet 0.5x"]["ours"] == "1.00x (paper 1.00x)"
    measurement = data["measurement"]
    assert measurement["threads"] == 1 and measurement["img_size"] == 32
    assert measurement["environment"]["versions"]["torch"]
    assert {sample["time"]["n"] for sample in measurement["samples"]} == {2}
    with Image.open(tmp_path / "f.png") as image:
        image.load()
        assert image.format == "PNG" and image.width > image.height


def test_throughput_is_images_per_second():
    table = tables.table("repvgg_table4")
    row = next(row for row in table.rows if row.name == "RepVGG-A0")
    measured = measure(table, [row], batch_size=2, img_size=32, plan=Plan(rounds=2, warmup_seconds=0))
    key = ("RepVGG-A0", "speed")
    assert measured.values == {key: 2 / measured.samples[key].median}


def test_a_training_step_is_timed_and_its_memory_counted():
    table = tables.table("orepa_table4")
    rows = [row for row in table.rows if row.name in ("ResNet-18 plain", "ResNet-18 DBB")]
    measured = measure(table, rows, batch_size=2, img_size=32, plan=Plan(rounds=2, warmup_seconds=0))
    assert set(measured.values) == {(row.name, column) for row in rows for column in ("step", "memory")}
    assert measured.values["ResNet-18 plain", "step"] == measured.samples["ResNet-18 plain", "step"].median
    # The gradients alone are as large as the 11.7 M parameters, 4 bytes each.
    assert measured.values["ResNet-18 plain", "memory"] > 4 * 11_689_512


def test_the_published_figure_needs_no_measurement(capsys, tmp_path: Path):
    code, _, _ = run(capsys, "repghost_figure", "--rows", "*GhostNet*", "--plot", str(tmp_path / "f.png"))
    assert code == 0
    with Image.open(tmp_path / "f.png") as image:
        image.load()
        assert image.width > 500
