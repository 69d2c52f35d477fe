"""Result files: what is written comes back, and what is not ours is refused in one line."""

import json

import pytest

from tests.support import results as made
from zoo.results.environment import commit, cpu, environment
from zoo.results.files import read_result, result_of, to_json, write_result
from zoo.results.records import Latency, Ratio, TrainStep

SETTING = {"model": "a", "structure": "train", "layout": "nhwc", "precision": "fp32"}
SETTING |= {"batch_size": 1, "img_size": 32, "threads": 1}


@pytest.mark.parametrize("kind", ["latency", "concat-add", "train", "profile"])
def test_what_is_written_comes_back(tmp_path, kind):
    result = made.all_results()[kind]
    write_result(tmp_path / "made" / "a.json", result)
    assert read_result(tmp_path / "made" / "a.json") == result


def test_what_is_not_a_number_is_null(tmp_path):
    write_result(tmp_path / "a.json", result_of("train", [TrainStep(**SETTING, other_cpus=float("nan"))]))
    assert json.loads((tmp_path / "a.json").read_text())["records"][0]["other_cpus"] is None
    assert read_result(tmp_path / "a.json").records[0].other_cpus is None
    assert to_json({"x": float("inf")}) == '{"x":null}'


def test_a_result_names_the_program_that_made_it(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/usr/bin/zoo", "benchmark", "latency", "--model", "repvgg_*"])
    assert result_of("latency", []).command == "zoo benchmark latency --model 'repvgg_*'"


def changed(**fields):
    return lambda document: document | fields


def first_record(**fields):
    return lambda document: document | {"records": [document["records"][0] | fields]}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (changed(schema=1), "schema 1, this version reads 2"),
        (changed(kind="weather"), "kind 'weather', known are latency"),
        (changed(extra=1), "unknown field `extra`"),
        (changed(environment={}), "missing required field `date`"),
        (first_record(batch_size="1"), "Expected `int`, got `str` - at `$.records[0].batch_size`"),
        (first_record(speedup={"value": None}), "Expected `float`, got `null`"),
        (first_record(colour="red"), "unknown field `colour`"),
        (first_record(samples=[1.0, "2"]), "`$.records[0].samples[1]`"),
    ],
)
def test_a_field_that_is_not_ours_is_named(tmp_path, change, reason):
    file = tmp_path / "a.json"
    file.write_text(json.dumps(change(json.loads(to_json(made.latency())))))
    with pytest.raises(ValueError) as caught:
        read_result(file)
    assert str(caught.value).startswith(f"{file}: not a result file of ours")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    ["", "[1]", "{", '{"schema": 1}', '{"schema": 2, "kind": NaN}', "[" * 100000, "\udcff"],
    ids=["empty", "list", "cut off", "old schema", "NaN", "deep", "no UTF-8"],
)
def test_what_is_no_result_is_refused_by_name(tmp_path, content):
    file = tmp_path / "other.json"
    file.write_text(content, errors="surrogateescape")
    with pytest.raises(ValueError, match=r"other\.json: not a result file of ours \(") as caught:
        read_result(file)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"absent\.json: not a result file of ours \(No such file"):
        read_result(tmp_path / "absent.json")


def test_a_ratio_upside_down():
    ratio = Ratio(value=2.0, low=1.6, high=2.5, repeat_low=1.25, repeat_high=4.0)
    assert ratio.inverse() == Ratio(value=0.5, low=0.4, high=0.625, repeat_low=0.25, repeat_high=0.8)
    assert Ratio(value=2.0).inverse() == Ratio(value=0.5)


def test_what_auto_computed_in_is_what_it_chose():
    setting = {name: SETTING[name] for name in ("model", "structure", "batch_size", "img_size", "threads")}
    assert Latency(**setting, engine="auto", precision="int8", chosen="openvino-bf16").computed_in == "bf16"
    assert Latency(**setting, engine="eager", precision="fp32").computed_in == "fp32"


def test_the_environment_names_the_machine(monkeypatch, tmp_path):
    monkeypatch.setattr(
        "cpuinfo.get_cpu_info", lambda: {"brand_raw": "Xeon", "flags": ["fpu", "avx2", "amx_bf16", "avx512f"]}
    )
    cpu.cache_clear()
    found = environment()
    cpu.cache_clear()
    assert found.cpu.model == "Xeon"
    assert found.cpu.features == ["avx2", "avx512", "amx_bf16"]
    assert found.cpu.cpus >= 1
    assert found.memory_gb > 0
    assert found.versions["torch"]
    assert commit(tmp_path) is None
