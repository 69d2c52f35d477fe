"""Tables, pictures and the page, made of figures that are known."""

import csv
import io
import json
import re
import shutil
import subprocess

import bench_results
import pytest

from zoo.bench import report
from zoo.bench.means import geometric_means, over_stages, repeatability
from zoo.bench.plots import pareto_front, plots
from zoo.bench.report import conditions, html_report, markdown_report, read_all, write_report
from zoo.bench.results import document, read, write
from zoo.bench.tables import KINDS, console, markdown, significant, tables

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def test_every_kind_has_tables_and_pictures():
    assert {result["kind"] for result in bench_results.all_results()} == set(KINDS)
    for result in bench_results.all_results():
        assert len(tables(result)[-1].rows) == len(result["rows"])
        assert plots(result)


def test_a_row_is_printed_in_its_units():
    table = tables(bench_results.latency())[-1]
    row = dict(zip(table.columns, (cell.text for cell in table.rows[4]), strict=True))
    assert row["model"] == "repvgg_a0"
    assert row["engine"] == "onnxruntime"
    assert row["median ms"] == "16.7"  # 35 / 2.1
    assert row["speed-up"] == "2.1"
    assert row["GMAC/s"] == "40"
    assert row["of GEMM peak"] == "44 %"
    assert row["peak MB"] == "30"


def test_a_failed_row_says_why_and_nothing_else():
    table = tables(bench_results.latency())[-1]
    row = dict(zip(table.columns, (cell.text for cell in table.rows[-1]), strict=True))
    assert (row["status"], row["note"], row["median ms"]) == (
        "out of memory",
        "out of memory: can't allocate <memory> | 9 GB",
        "",
    )
    assert "memory> \\| 9 GB" in markdown(table)  # a bar inside a cell would end it


def test_geometric_means_leave_out_what_some_model_lacks():
    rows = bench_results.latency()["rows"]
    means = {(m["structure"], m["engine"], m["precision"]): m for m in geometric_means(rows)}
    assert means["deployed", "openvino", "bf16"]["speedup"] == pytest.approx(8.0)
    assert means["deployed", "eager", "fp32"]["count"] == 4
    without = [r for r in rows if (r["model"], r["engine"]) != ("repvgg_a0", "onnxruntime")]
    assert ("deployed", "onnxruntime", "fp32") not in {
        (m["structure"], m["engine"], m["precision"]) for m in geometric_means(without)
    }


def test_stages_are_averaged_per_engine_layout_and_batch():
    rows = bench_results.concat_add()["rows"]
    double = [{**row, "stage": "4", "ratio": {**row["ratio"], "value": 4 * row["ratio"]["value"]}} for row in rows]
    means = over_stages(rows + double)
    assert len(means) == len(rows)
    assert {mean["count"] for mean in means} == {2}
    first = next(m for m in means if m["comparison"] == "operator" and m["engine"] == "onnxruntime")
    assert first["ratio"] == pytest.approx(2 * 1.4)


def test_repeatability_counts_ratios_within_each_others_intervals():
    def run(value):
        ratio = {"value": value, "repeat_low": value * 0.9, "repeat_high": value * 1.1}
        reference = {"status": "ok", "speedup": ratio}  # without `warning`: a reference or a control
        return [reference, {"status": "ok", "warning": None, "speedup": ratio}]

    counted = repeatability([run(1.0), run(1.05), run(2.0)])
    assert (counted["runs"], counted["compared"], counted["within"]) == (3, 6, 2)
    assert [ratio["value"] for ratio in counted["rows"][0]["speedups"]] == [1.0, 1.05, 2.0]


def test_pareto_front():
    points = [(1.0, 70.0), (2.0, 69.0), (3.0, 75.0), (3.0, 74.0), (4.0, 75.0)]
    assert pareto_front(points, higher=True) == [(1.0, 70.0), (3.0, 75.0)]
    assert pareto_front(points, higher=False) == [(1.0, 70.0), (2.0, 69.0)]


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (1234567.0, "1234567"), (0.012345, "0.0123"), (35.04, "35"), (1.25, "1.25")]
)
def test_three_significant_digits_without_exponents(value, text):
    assert significant(value) == text


def test_csv_keeps_full_precision():
    lines = list(csv.reader(io.StringIO(report.csv_report([bench_results.train()]))))
    step = lines[0].index("median ms")
    assert float(lines[2][step]) == pytest.approx(1000 * 0.35 * 1.9, rel=1e-12)


def test_console_columns_line_up():
    lines = console(tables(bench_results.profile())[-1]).splitlines()
    assert len(lines) == 7
    assert len({len(line) for line in lines}) == 1  # the last column, shares, is set to the right
    assert lines[0].startswith("model")


def test_results_survive_the_file_and_nan_is_null(tmp_path):
    file = tmp_path / "made" / "latency.json"
    write(file, document("latency", [{"median": float("nan"), "samples": [1.0, float("inf")]}]))
    assert json.loads(file.read_text())["rows"] == [{"median": None, "samples": [1.0, None]}]
    assert read(file)["environment"]["versions"]["torch"]


@pytest.mark.parametrize("text", ["", "[1]", '{"schema": 99, "kind": "latency"}', '{"schema": 1}'])
def test_other_files_are_refused_by_name(tmp_path, text):
    file = tmp_path / "other.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"other\.json: not a"):
        read_all([file])


def test_a_kind_without_tables_is_refused(tmp_path):
    write(tmp_path / "x.json", document("weather", []))
    with pytest.raises(ValueError, match=r"x\.json: results of kind 'weather'"):
        read_all([tmp_path / "x.json"])


def test_unknown_report_format_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"\.pdf: a report ends in"):
        write_report(bench_results.all_results(), tmp_path / "report.pdf")


def test_png_plots_are_written(tmp_path):
    files = write_report([bench_results.concat_add()], tmp_path / "plots.png")
    assert [file.name for file in files] == ["plots-concat-vs-add-operator.png", "plots-concat-vs-add-equal-width.png"]
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files)


def test_a_result_names_the_program_that_made_it(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/usr/bin/zoo", "benchmark", "latency", "--model", "repvgg_a0"])
    assert document("latency", [])["command"] == "zoo benchmark latency --model repvgg_a0"


def test_the_command_prints_markdown(tmp_path, capsys):
    write(tmp_path / "train.json", bench_results.train())
    assert report.main([str(tmp_path / "train.json")]) == 0
    assert "| repvgg_a0 | plain | nhwc | bf16 |" in capsys.readouterr().out
    assert report.main([str(tmp_path / "absent.json")]) == 2
    assert "absent.json" in capsys.readouterr().err


def test_every_result_carries_its_conditions():
    result = bench_results.latency()
    text = conditions(result)
    assert "fp32 91, triad 14" in text
    assert re.search(r"torch \d+\.\d+", text)
    assert markdown_report([result]).endswith(f"*{text}*\n")


def test_the_page_is_self_contained_and_escapes():
    page = html_report(bench_results.all_results())
    assert "can&#x27;t allocate &lt;memory&gt;" in page
    loads = re.findall(r'(?:src|href)="(?!#)([^"]+)"|url\((?!#)', page)
    assert [link for link in loads if not link.startswith("#")] == []


SORT_BY_MEDIAN = """
<script>
  const table = document.querySelectorAll("table")[1];
  const heading = [...table.tHead.rows[0].cells].find(cell => cell.textContent === "median ms");
  heading.click();
  const values = [...table.tBodies[0].rows].map(row => row.cells[heading.cellIndex].dataset.value);
  heading.click();
  const down = [...table.tBodies[0].rows].map(row => row.cells[heading.cellIndex].dataset.value);
  const filter = document.getElementById("filter");
  filter.value = "openvino";
  filter.dispatchEvent(new Event("input"));
  const shown = [...table.tBodies[0].rows].filter(row => !row.hidden).length;
  const pictures = [...document.querySelectorAll("figure svg")].map(s => s.getBoundingClientRect().height > 100);
  const result = document.createElement("pre");
  result.id = "result";
  result.textContent = JSON.stringify({values, down, shown, pictures});
  document.body.append(result);
</script>
"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH: install one, e.g. `apt-get install chromium`")
def test_the_page_sorts_filters_and_shows_its_pictures_in_a_browser(tmp_path):
    page = tmp_path / "report.html"
    write_report(bench_results.all_results(), page)
    page.write_text(page.read_text().replace("</body>", SORT_BY_MEDIAN + "</body>"))
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        f"--user-data-dir={tmp_path}/profile",
    ]
    assert CHROMIUM is not None
    done = subprocess.run(
        [CHROMIUM, *flags, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    found = re.search(r'<pre id="result">(.*?)</pre>', done.stdout)
    assert found, done.stdout[-2000:]
    result = json.loads(found[1])
    medians = sorted(row["median"] * 1e3 for row in bench_results.latency()["rows"] if "median" in row)
    assert [float(value) for value in result["values"][:-1]] == pytest.approx(medians)
    assert result["values"][-1] == ""  # the row without a time comes last, both ways
    assert [float(value) for value in result["down"][:-1]] == pytest.approx(medians[::-1])
    assert result["down"][-1] == ""
    assert result["shown"] == 5  # four networks on OpenVINO in bf16, and the row that failed
    assert result["pictures"] == [True] * 7


def test_concat_add_at_one_batch_size_is_drawn_too(tmp_path):
    result = bench_results.concat_add()
    result["rows"] = [row for row in result["rows"] if row["batch_size"] == 1]
    assert len(write_report([result], tmp_path / "joins.png")) == 2


def test_pictures_of_nothing_are_refused(tmp_path):
    result = bench_results.latency()
    result["rows"] = result["rows"][-1:]  # it ran out of memory
    with pytest.raises(ValueError, match=r"a.png: nothing to draw, as no row was measured"):
        write_report([result], tmp_path / "a.png")
