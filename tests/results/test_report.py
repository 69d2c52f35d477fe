"""What results look like: tables, pictures and the page, made of figures that are known."""

import csv
import io
import json
import re
import shutil
import subprocess

import pytest

from tests.support import results as made
from zoo.results import report
from zoo.results.files import KINDS, result_of, write_result
from zoo.results.means import join_means, repeatability, speedup_means
from zoo.results.plots import pareto_front, plots, svg
from zoo.results.records import Latency, Ratio
from zoo.results.report import headline, html_report, markdown_report, read_all, write_report
from zoo.results.surveys import Conversion, Folding, TrainingRun
from zoo.results.views import COLUMNS, conditions, limit, tables

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def cells(table, index):
    return {column.title: column.text(table.records[index]) for column in table.columns}


def test_every_kind_has_tables_and_what_was_timed_has_pictures():
    assert COLUMNS.keys() == KINDS.keys()
    for result in made.all_results().values():
        assert len(tables(result)[-1].records) == len(result.records)
        assert plots(result)
    conversion = Conversion(network="timm/vgg11", block="acb", img_size=64, seconds=1.0, replaced=8, left={"1x1": 2})
    folding = Folding(network="timm/x", seconds=1.0, layers=(9, 7, 5), norms=(8, 8, 0), relative_error=1e-15)
    assert cells(tables(result_of("folding", [folding]))[-1], 0)["layers"] == "9 → 7 → 5"
    run = TrainingRun(variant="plain", seed=0, train_loss=[2.0, 1.0], top1=[50.0, 81.75])
    assert cells(tables(result_of("conversion", [conversion]))[-1], 0)["left"] == "2: 1x1"
    assert cells(tables(result_of("training", [run]))[-1], 0)["top-1, %"] == "81.75"


def test_dollars_in_a_name_are_no_formula():
    result = made.latency()
    for record in result.records:
        record.model = f"$\\nonsense$ {record.model}"
    assert all(r"$\nonsense$ repvgg_a0" in svg(figure) for figure in plots(result).values())


def test_a_row_is_printed_in_its_units():
    row = cells(tables(made.latency())[-1], 4)
    assert row["model"] == "repvgg_a0"
    assert row["engine"] == "onnxruntime"
    assert row["median ms"] == "16.7"  # 35 / 2.1
    assert row["speed-up"] == "2.1"
    assert row["GMAC/s"] == "24"
    assert row["of best rate"] == "26 %"  # of the 91 of a matrix product
    assert row["of bandwidth"] == "4 %"
    assert row["peak MB"] == "30"


def test_no_engine_is_faster_than_the_limit():
    result = made.latency()
    fast = result.records[4]
    fast.macs = int(1.2 * 9.1e10 * fast.time.median)
    assert limit(result, fast) == pytest.approx(1.2 * 9.1e10)
    assert cells(tables(result)[-1], 4)["of best rate"] == "100 %"
    said = "contradict each other: repvgg_a0 on onnxruntime reached 109 GMAC/s, more than any matrix product in fp32"
    assert said in conditions(result)
    assert "contradict" not in conditions(made.latency())


def test_an_engines_own_matrix_product_counts_in_its_precision():
    result = made.latency()
    result.peaks["1"]["gemm_fp32_openvino"] = 1.5e11
    assert limit(result, result.records[4]) == 1.5e11
    result.peaks["1"]["gemm_fp16_openvino"] = 2e11
    assert limit(result, result.records[4]) == 1.5e11


def test_winograds_saved_multiplications_are_counted_apart():
    result = made.latency()
    fast = result.records[4]
    fast.macs, fast.engine = int(1.2 * 9.1e10 * fast.time.median), "ncnn"
    assert limit(result, fast) == 9.1e10
    row = cells(tables(result)[-1], 4)
    assert (row["of best rate"], row["effective"]) == ("", "120 %")
    assert "contradict" not in conditions(result)


def test_a_failed_row_says_why_and_nothing_else():
    table = tables(made.latency())[-1]
    row = cells(table, -1)
    assert (row["status"], row["note"], row["median ms"]) == (
        "out of memory",
        "out of memory: can't allocate <memory> | 9 GB",
        "",
    )
    assert "memory> \\| 9 GB" in table.markdown()  # a bar inside a cell would end it


def test_geometric_means_leave_out_what_some_model_lacks():
    records = made.latency().records
    means = {(m.like.structure, m.like.engine, m.like.precision): m for m in speedup_means(records)}
    assert means["deployed", "openvino", "bf16"].ratio == pytest.approx(8.0)
    assert means["deployed", "eager", "fp32"].count == 4
    without = [r for r in records if (r.model, r.engine) != ("repvgg_a0", "onnxruntime")]
    kinds = {(mean.like.structure, mean.like.engine, mean.like.precision) for mean in speedup_means(without)}
    assert ("deployed", "onnxruntime", "fp32") not in kinds


def test_networks_that_compete_have_no_mean():
    records = [r for r in made.latency().records if r.model == "repvgg_a0" or r.structure != "peer"]
    assert list(speedup_means(records)) == []


def test_stages_are_averaged_per_engine_layout_and_batch():
    records = made.concat_add().records
    double = made.concat_add().records
    for record in double:
        record.stage, record.ratio = "4", Ratio(value=4 * record.ratio.value)
    means = list(join_means(records + double))
    assert len(means) == len(records)
    assert {mean.count for mean in means} == {2}
    first = next(m for m in means if (m.like.comparison, m.like.engine) == ("operator", "onnxruntime"))
    assert first.ratio == pytest.approx(2 * 1.4)


def test_repeatability_counts_ratios_within_each_others_intervals():
    setting = {"model": "a", "structure": "train", "engine": "eager", "precision": "fp32"}
    setting |= {"batch_size": 1, "img_size": 32, "threads": 1}

    def run(value):
        ratio = Ratio(value=value, repeat_low=value * 0.9, repeat_high=value * 1.1)
        control = {**setting, "structure": "control"}
        return [
            Latency(**setting, is_reference=True, speedup=ratio),
            Latency(**setting, speedup=ratio),
            Latency(**control, speedup=ratio),
        ]

    counted = repeatability([run(1.0), run(1.05), run(2.0)])
    assert (counted.runs, counted.compared, counted.within) == (3, 6, 2)
    assert [[ratio.value for ratio in one.speedups] for one in counted.ratios] == [[1.0, 1.05, 2.0]]


def test_pareto_front():
    points = [(1.0, 70.0), (2.0, 69.0), (3.0, 75.0), (3.0, 74.0), (4.0, 75.0)]
    assert pareto_front(points, higher=True) == [(1.0, 70.0), (3.0, 75.0)]
    assert pareto_front(points, higher=False) == [(1.0, 70.0), (2.0, 69.0)]


def test_legends_have_the_marks_that_are_drawn_and_no_others():
    def names(result):
        [figure] = [f for name, f in plots(result).items() if name.startswith(("parameters", "time by"))]
        return [text.get_text() for legend in figure.legends for text in legend.get_texts()]

    result = made.latency()
    assert "train, eager fp32" in names(result)
    result.records = [r for r in result.records if r.structure == "deployed" and r.model == "repvgg_a0"]
    assert names(result) == ["deployed, eager fp32", "deployed, fastest engine", "repvgg_a0"]
    assert names(made.profile()) == ["conv 3x3", "BatchNorm", "ReLU"]


def test_logarithmic_axes_have_plain_numbers():
    for result in made.all_results().values():
        for name, figure in plots(result).items():
            figure.draw_without_rendering()
            [axes] = figure.axes
            ticks = [text.get_text() for text in axes.get_xticklabels(which="both") if text.get_text()]
            assert not any("10^" in text or "times" in text for text in ticks), name


def test_csv_keeps_full_precision():
    lines = list(csv.reader(io.StringIO(report.csv_report({"train": made.train()}))))
    step = lines[0].index("median ms")
    assert float(lines[2][step]) == pytest.approx(1000 * 0.35 * 1.9, rel=1e-12)


def test_csv_has_one_header_a_kind():
    lines = report.csv_report({"a": made.train(), "b": made.train(), "c": made.profile()}).splitlines()
    assert sum(line.startswith("model,") for line in lines) == 2


def test_a_file_is_called_by_its_name_and_two_of_one_name_by_their_paths(tmp_path):
    files = [tmp_path / "a" / "x.json", tmp_path / "b" / "x.json", tmp_path / "y.json"]
    for file in files:
        write_result(file, made.train())
    assert list(read_all(files)) == [str(files[0]), str(files[1]), "y"]


def test_unknown_report_format_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"\.pdf: a report ends in"):
        write_report(made.all_results(), tmp_path / "report.pdf")


def test_png_plots_are_written(tmp_path):
    files = write_report({"joins": made.concat_add()}, tmp_path / "plots.png")
    assert [file.name for file in files] == ["plots-concat-vs-add-operator.png", "plots-concat-vs-add-equal-width.png"]
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files)


def test_every_result_carries_its_conditions():
    result = made.latency()
    text = conditions(result)
    assert "fp32 91, triad 14" in text
    assert re.search(r"torch \d+\.\d+", text)
    assert markdown_report({"latency": result}).endswith(f"*{text}*\n")


def test_the_page_leads_with_what_the_results_come_down_to():
    text = headline(made.all_results())
    assert text.startswith("Deployed networks ran 8 times as fast (engine openvino, bf16) as what timm's")
    page = html_report(made.all_results())
    assert page.index("Deployed networks ran 8 times") < page.index("<nav>")
    joins = "Concatenating two maps took 1.4 to 2.17 times as long as adding them."
    assert headline({"joins": made.concat_add()}) == joins
    assert headline({"profile": made.profile()}) is None


def test_no_two_links_of_the_page_have_one_name():
    page = html_report({"speedup-1": made.latency(), "speedup-8": made.latency()})
    assert re.findall(r"<a href=[^>]*>([^<]*)</a>", page) == ["speedup-1", "speedup-8"]


def test_the_page_is_self_contained_and_escapes():
    page = html_report(made.all_results())
    assert "can&#x27;t allocate &lt;memory&gt;" in page
    loads = re.findall(r'(?:src|href)="(?!#)([^"]+)"|url\((?!#)', page)
    assert [link for link in loads if not link.startswith("#")] == []


SORT_BY_MEDIAN = """
<script>
  const table = document.querySelectorAll("table")[1];
  const heading = [...table.tHead.rows[0].cells].find(cell => cell.textContent.trim() === "median ms");
  heading.click();
  const values = [...table.tBodies[0].rows].map(row => row.cells[heading.cellIndex].textContent.trim());
  heading.click();
  const down = [...table.tBodies[0].rows].map(row => row.cells[heading.cellIndex].textContent.trim());
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
    write_report(made.all_results(), page)
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
    medians = sorted(record.time.median * 1e3 for record in made.latency().records if record.time)
    assert [float(value) for value in result["values"][:-1]] == pytest.approx(medians, rel=5e-3)
    assert result["values"][-1] == ""  # the row without a time comes last, both ways
    assert [float(value) for value in result["down"][:-1]] == pytest.approx(medians[::-1], rel=5e-3)
    assert result["down"][-1] == ""
    assert result["shown"] == 5  # four networks on OpenVINO in bf16, and the row that failed
    assert result["pictures"] == [True] * 7


def test_concat_add_at_one_batch_size_is_drawn_too(tmp_path):
    result = made.concat_add()
    result.records = [record for record in result.records if record.batch_size == 1]
    assert len(write_report({"joins": result}, tmp_path / "joins.png")) == 2


def test_pictures_of_nothing_are_refused(tmp_path):
    result = made.latency()
    result.records = result.records[-1:]  # it ran out of memory
    with pytest.raises(ValueError, match=r"a.png: nothing to draw, as nothing was measured"):
        write_report({"latency": result}, tmp_path / "a.png")
