"""`benchmark.py` from its flags to its tables, its files and its JSON."""

import json
from pathlib import Path

import msgspec
import pytest

from zoo.bench import latency
from zoo.cli.main import main
from zoo.export import engines
from zoo.results.means import join_means
from zoo.results.records import Join

QUICK = ["--batch-size", "1", "--img-size", "32", "--rounds", "8", "--seconds", "5", "--warmup-seconds", "0.05"]


def run(capsys, *argv):
    """(exit code, stdout lines, stderr)"""
    code = main(list(argv), command="benchmark")
    captured = capsys.readouterr()
    return code, captured.out.splitlines(), captured.err


def run_json(capsys, *argv):
    """(the JSON object that `--json` prints, what people read on stderr)"""
    code, lines, errors = run(capsys, *argv, "--json")
    assert code == 0, errors
    (line,) = lines
    return json.loads(line), errors


def test_latency_prints_tables_and_json_when_asked(capsys, tmp_path):
    file, page = tmp_path / "latency.json", tmp_path / "latency.html"
    flags = ["--structure", "train", "deployed", "--engine", "eager", "--repeat", "2"]
    files = ["--results-file", str(file), "--report", str(page)]
    result, errors = run_json(capsys, "latency", "--model", "repvgg_tiny", *flags, *QUICK, *files)
    assert result["kind"] == "latency"
    assert [row["structure"] for row in result["records"]] == ["train", "deployed", "control"]
    assert result["repeatability"]["compared"] == 2
    assert result["peaks"]["1"]["gemm_fp32"] > 0
    saved = json.loads(file.read_text())
    assert saved["records"][0]["samples"]
    assert saved["environment"] == result["environment"]
    assert page.read_text().count("<tr>") >= 4
    assert any(line.startswith("repvgg_tiny") for line in errors.splitlines())
    assert "round" in errors  # the progress bar


def test_models_in_one_group_share_their_reference(capsys):
    models = ["--model", "timm/test_byobnet", "repvgg_tiny", "--together"]
    rows = run_json(capsys, "latency", *models, "--structure", "deployed", "--engine", "eager", *QUICK)[0]["records"]
    assert [row["model"] for row in rows] == ["timm/test_byobnet", "repvgg_tiny", "timm/test_byobnet"]
    assert rows[0]["speedup"]["value"] == 1.0
    assert [row.get("is_reference", False) for row in rows] == [True, False, False]


def test_train_profile_and_report(capsys, tmp_path):
    files = [str(tmp_path / "train.json"), str(tmp_path / "profile.json")]
    for command, file in zip(("train", "profile"), files, strict=True):
        code, lines, errors = run(capsys, command, "--model", "repvgg_tiny", *QUICK, "--results-file", file)
        assert code == 0, errors
        assert json.loads(Path(file).read_text())["kind"] == command
        assert not any(line.startswith("{") for line in lines)  # JSON only when asked
    code, lines, _ = run(capsys, "report", *files, "--output", str(tmp_path / "report.md"))
    assert code == 0
    assert lines == [str(tmp_path / "report.md")]
    assert "kept for backward MB" in (tmp_path / "report.md").read_text()


def test_concat_add(capsys):
    flags = ["--engine", "eager", "--layout", "nchw", "--comparison", "operator", "--batch-size", "1", "2"]
    bounds = ["--rounds", "8", "--seconds", "0.5", "--warmup-seconds", "0.01"]
    result, _ = run_json(capsys, "concat-add", *flags, *bounds)
    assert len(result["records"]) == 7 * 2 * 2
    means = {
        (m.like.comparison, m.like.batch_size)
        for m in join_means([msgspec.convert(r, Join) for r in result["records"]])
    }
    assert means == {("operator", 1), ("operator", 2), ("equal width", 1), ("equal width", 2)}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["latency", "--model", "repvgg_a00"], "unknown model 'repvgg_a00': did you mean repvgg_a0"),
        (["latency", "--model", "timm/resnet8"], "unknown model 'timm/resnet8': did you mean timm/resnet18"),
        (["latency", "--model", "torchvision/vgg17"], "unknown model 'torchvision/vgg17': did you mean torchvision/"),
        (["latency", "--model", "repvgg_a0", "--engine", "onnxrun"], "did you mean onnxruntime"),
        (["latency", "--model", "repvgg_a0", "--rounds", "0"], "rounds: expected int >= 1, got '0'"),
        (["latency", "--model", "repvgg_a0", "--repeat", "0"], "repeat: expected int >= 1, got '0'"),
        (["latency", "--model", "repvgg_a0", "--batch-size", "0"], "batch_size: expected int >= 1, got '0'"),
        (["latency", "--model", "repvgg_a0", "--seconds", "0"], "seconds: expected float > 0.0"),
        (["latency", "--model", "repvgg_a0", "--seconds", "nan"], "seconds: expected float > 0.0, got 'nan'"),
        (["latency", "--model", "repvgg_a0", "--seconds", "-1"], "seconds: expected float > 0.0, got '-1'"),
        (["latency", "--model", "repvgg_a0", "--seconds", "inf"], "seconds: expected a finite number, got 'inf'"),
        (["latency", "--model", "repvgg_a0", "--threads", "1", "100000"], "threads: expected int <= "),
        (["latency", "--model", "repvgg_a0", "--structure", "trian"], "structure: expected one of peer, train, folded"),
        (["concat-add", "--width", "0.7"], "width: both networks have 0.5, 1.0, 1.3, got 0.7"),
        (["latency", "--model", "repvgg_a0", "--results-file", "no/such/folder/a.json"], "folder of no/such"),
        (
            ["latency", "--model", "repvgg_a0", "--results-file", "a.txt"],
            "results_file: expected a name ending in .json, got 'a.txt'",
        ),
        (["latency", "--model", "repvgg_a0", "--report", "no/such/folder/a.html"], "folder of no/such"),
        (
            ["latency", "--model", "repvgg_a0", "--report", "a.pdf"],
            "report: expected a name ending in .html or .md or .csv or .png",
        ),
        (["latency", "--model", "repvgg_a0", "repvgg_a1", "--checkpoint", "x.pth"], "one network: give one --model"),
        (["latency"], "required: --model"),
        (["lateny"], "no command 'lateny'; did you mean latency?"),
        (["report", "absent.json"], "absent.json: not a result file"),
        (["report", "absent.json", "--output", "no/such/folder/a.md"], "folder of no/such"),
        (["concat-add", "--engine", "auto"], "an --engine by its name"),
        (["concat-add", "--engine", "eager", "--comparison", "network", "--batch-size", "64"], "up to --batch-size 32"),
    ],
)
def test_mistakes_are_one_line(capsys, argv, message):
    code, lines, errors = run(capsys, *argv)
    assert code == 2
    assert lines == []
    assert errors.count("\n") == 1
    name = "benchmark.py" if argv == ["lateny"] else f"benchmark.py {argv[0]}"
    assert errors.startswith(f"{name}: error: ")
    assert message in errors


def test_a_folder_that_may_not_be_written_to_is_refused_before_the_work(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("zoo.cli.config.os.access", lambda folder, mode: False)  # root may write anywhere
    code, _, errors = run(capsys, "latency", "--model", "repvgg_tiny", "--results-file", str(tmp_path / "a.json"))
    assert code == 2
    assert "may not be written to" in errors


def test_an_interrupted_run_keeps_what_it_measured(capsys, monkeypatch, tmp_path):
    measured = latency.measure_group

    def interrupt_the_second(group, *arguments, **options):
        if group[0].batch_size == 2:
            raise KeyboardInterrupt
        return measured(group, *arguments, **options)

    monkeypatch.setattr("zoo.cli.benchmark.measure_group", interrupt_the_second)
    file = tmp_path / "a.json"
    flags = ["--structure", "deployed", "--engine", "eager", "--batch-size", "1", "2", "--results-file", str(file)]
    code, lines, errors = run(capsys, "latency", "--model", "repvgg_tiny", *QUICK, *flags)
    assert code == 130
    assert errors.endswith("benchmark.py latency: error: interrupted\n")
    kept = json.loads(file.read_text())
    assert kept["interrupted"] and [row["batch_size"] for row in kept["records"]] == [1, 1]  # with its control
    assert any("repvgg_tiny" in line for line in lines)


def test_what_was_measured_is_shown_although_its_file_cannot_be_written(capsys, monkeypatch, tmp_path):
    def full(path, result):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("zoo.cli.benchmark.write_result", full)
    flags = ["--structure", "deployed", "--engine", "eager", "--results-file", str(tmp_path / "a.json")]
    code, lines, errors = run(capsys, "latency", "--model", "repvgg_tiny", *flags, *QUICK)
    assert code == 1
    assert "a.json: No space left on device" in errors
    assert any(line.startswith("repvgg_tiny  deployed") for line in lines)


@pytest.mark.parametrize("command", ["latency", "concat-add", "train", "profile"])
def test_the_help_shows_every_default(capsys, command):
    with pytest.raises(SystemExit):
        main([command, "--help"], command="benchmark")
    text = " ".join(capsys.readouterr().out.split())
    assert "(default: None)" not in text
    assert "(default: cpu)" in text
    assert "(default: 1" in text


def test_a_missing_engine_names_what_to_install(capsys, monkeypatch):
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: None)
    code, _, errors = run(capsys, "latency", "--model", "repvgg_a0", "--engine", "onnxruntime")
    assert code == 2
    assert "pip install onnx onnxscript onnxruntime" in errors
    code, _, errors = run(capsys, "latency", "--model", "repvgg_a0", "--engine", "openvino")
    assert "pip install openvino" in errors


def test_cuda_without_a_device_is_refused(capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    code, _, errors = run(capsys, "train", "--model", "repvgg_tiny", "--device", "cuda")
    assert code == 2
    assert "torch finds no CUDA device" in errors


def test_paper_goes_to_the_paper_command(capsys):
    code, lines, _ = run(capsys, "paper")
    assert code == 0
    assert any(line.startswith("repvgg_table4 ") for line in lines)
