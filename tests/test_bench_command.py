"""`benchmark.py` from its flags to its last line."""

import json

import pytest

from zoo.bench import latency
from zoo.cli import benchmark
from zoo.export import engines

QUICK = ["--batch-size", "1", "--img-size", "32", "--rounds", "8", "--seconds", "5", "--warmup-seconds", "0.05"]


def run(capsys, *argv):
    """(exit code, stdout lines, stderr)"""
    code = benchmark.main(list(argv))
    captured = capsys.readouterr()
    return code, captured.out.splitlines(), captured.err


def test_latency_prints_tables_and_ends_with_json(capsys, tmp_path):
    file, page = tmp_path / "latency.json", tmp_path / "latency.html"
    flags = ["--structure", "train", "deployed", "--engine", "eager", "--repeat", "2"]
    files = ["--results-file", str(file), "--report", str(page)]
    code, lines, errors = run(capsys, "latency", "--model", "repvgg_tiny", *flags, *QUICK, *files)
    assert code == 0, errors
    result = json.loads(lines[-1])
    assert result["kind"] == "latency"
    assert [row["structure"] for row in result["rows"]] == ["train", "deployed", "control"]
    assert result["repeatability"]["compared"] == 2
    assert result["peaks"]["1"]["gemm_fp32"] > 0
    saved = json.loads(file.read_text())
    assert saved["rows"][0]["samples"]
    assert saved["environment"] == result["environment"]
    assert page.read_text().count("<tr>") >= 4
    assert any(line.startswith("repvgg_tiny") for line in lines[:-1])
    assert "round" in errors  # the progress bar


def test_models_in_one_group_share_their_reference(capsys):
    models = ["--model", "timm/test_byobnet", "repvgg_tiny", "--together"]
    code, lines, _ = run(capsys, "latency", *models, "--structure", "deployed", "--engine", "eager", *QUICK)
    rows = json.loads(lines[-1])["rows"]
    assert code == 0
    assert [row["model"] for row in rows] == ["timm/test_byobnet", "repvgg_tiny", "timm/test_byobnet"]
    assert rows[0]["speedup"]["value"] == 1.0
    assert "warning" in rows[1]


def test_train_profile_and_report(capsys, tmp_path):
    files = [str(tmp_path / "train.json"), str(tmp_path / "profile.json")]
    for command, file in zip(("train", "profile"), files, strict=True):
        code, lines, errors = run(capsys, command, "--model", "repvgg_tiny", *QUICK, "--results-file", file)
        assert code == 0, errors
        assert json.loads(lines[-1])["kind"] == command
    code, lines, _ = run(capsys, "report", *files, "--output", str(tmp_path / "report.md"))
    assert code == 0
    assert json.loads(lines[-1])["written"] == [str(tmp_path / "report.md")]
    assert "kept for backward MB" in (tmp_path / "report.md").read_text()


def test_concat_add(capsys):
    flags = ["--engine", "eager", "--layout", "nchw", "--comparison", "operator", "--batch-size", "1", "2"]
    bounds = ["--rounds", "8", "--seconds", "0.5", "--warmup-seconds", "0.01"]
    code, lines, errors = run(capsys, "concat-add", *flags, *bounds)
    assert code == 0, errors
    result = json.loads(lines[-1])
    assert len(result["rows"]) == 7 * 2 * 2
    means = {(m["comparison"], m["batch_size"]): m["ratio"] for m in result["means"]}
    assert means.keys() == {("operator", 1), ("operator", 2), ("equal width", 1), ("equal width", 2)}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["latency", "--model", "repvgg_a00"], "unknown model 'repvgg_a00': did you mean repvgg_a0"),
        (["latency", "--model", "timm/resnet8"], "unknown model 'timm/resnet8': did you mean timm/resnet18"),
        (["latency", "--model", "torchvision/vgg17"], "unknown model 'torchvision/vgg17': did you mean torchvision/"),
        (["latency", "--model", "repvgg_a0", "--engine", "onnxrun"], "did you mean onnxruntime"),
        (["latency", "--model", "repvgg_a0", "--rounds", "0"], "0 rounds measure nothing"),
        (["latency", "--model", "repvgg_a0", "--repeat", "0"], "--repeat 0 runs nothing"),
        (["latency", "--model", "repvgg_a0", "--batch-size", "0"], "'0' is not a positive whole number"),
        (["latency", "--model", "repvgg_a0", "--seconds", "0"], "time bound must be positive"),
        (["latency", "--model", "repvgg_a0", "--seconds", "nan"], "time bound must be positive"),
        (["latency", "--model", "repvgg_a0", "--results-file", "no/such/folder/a.json"], "folder of no/such"),
        (["latency", "--model", "repvgg_a0", "--results-file", "a.txt"], "must end in .json"),
        (["latency", "--model", "repvgg_a0", "--report", "no/such/folder/a.html"], "folder of no/such"),
        (["latency", "--model", "repvgg_a0", "--report", "a.pdf"], "a.pdf: a report ends in one of .md, .csv"),
        (["latency", "--model", "repvgg_a0", "repvgg_a1", "--checkpoint", "x.pth"], "one network: give one --model"),
        (["latency"], "required: --model"),
        (["lateny"], "invalid choice: 'lateny'"),
        (["report", "absent.json"], "absent.json: not a readable result"),
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
    assert errors.startswith("benchmark.py: error: ")
    assert message in errors


def test_a_folder_that_may_not_be_written_to_is_refused_before_the_work(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("zoo.cli.errors.os.access", lambda folder, mode: False)  # root may write anywhere
    code, _, errors = run(capsys, "latency", "--model", "repvgg_tiny", "--results-file", str(tmp_path / "a.json"))
    assert code == 2
    assert "may not be written to" in errors


def test_an_interrupted_run_keeps_what_it_measured(capsys, monkeypatch, tmp_path):
    measured = latency.measure_group

    def interrupt_the_second(group, setting, *arguments, **options):
        if setting.batch_size == 2:
            raise KeyboardInterrupt
        return measured(group, setting, *arguments, **options)

    monkeypatch.setattr("zoo.cli.benchmark.measure_group", interrupt_the_second)
    file = tmp_path / "a.json"
    flags = ["--structure", "deployed", "--engine", "eager", "--batch-size", "1", "2", "--results-file", str(file)]
    code, lines, errors = run(capsys, "latency", "--model", "repvgg_tiny", *QUICK, *flags)
    assert code == 130
    assert errors.endswith("benchmark.py: error: interrupted\n")
    kept = json.loads(file.read_text())
    assert kept["interrupted"] and [row["batch_size"] for row in kept["rows"]] == [1, 1]  # with its control
    assert any("repvgg_tiny" in line for line in lines)


def test_what_was_measured_is_shown_although_its_file_cannot_be_written(capsys, monkeypatch, tmp_path):
    def full(path, result):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("zoo.cli.benchmark.write", full)
    flags = ["--structure", "deployed", "--engine", "eager", "--results-file", str(tmp_path / "a.json")]
    code, lines, errors = run(capsys, "latency", "--model", "repvgg_tiny", *flags, *QUICK)
    assert code == 1
    assert "a.json: No space left on device" in errors
    assert any(line.startswith("repvgg_tiny  deployed") for line in lines)


@pytest.mark.parametrize("command", ["latency", "concat-add", "train", "profile"])
def test_the_help_shows_every_default(capsys, command):
    with pytest.raises(SystemExit):
        benchmark.main([command, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "(default: None)" not in text
    assert "(default: cpu)" in text
    assert "(default: [1" in text


def test_a_missing_engine_names_what_to_install(capsys, monkeypatch):
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: None)
    code, _, errors = run(capsys, "latency", "--model", "repvgg_a0", "--engine", "onnxruntime")
    assert code == 2
    assert "pip install 'reparam-zoo[onnx]'" in errors
    code, _, errors = run(capsys, "latency", "--model", "repvgg_a0", "--engine", "openvino")
    assert "pip install 'reparam-zoo[openvino]'" in errors


def test_cuda_without_a_device_is_refused(capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    code, _, errors = run(capsys, "train", "--model", "repvgg_tiny", "--device", "cuda")
    assert code == 2
    assert "torch finds no CUDA device" in errors


def test_paper_goes_to_the_paper_command(capsys):
    code, lines, _ = run(capsys, "paper")
    assert code == 0
    assert "repvgg" in lines[-1]
