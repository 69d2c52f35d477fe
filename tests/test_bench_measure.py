"""What the benchmark counts: memory, traffic, limits, and the rows it makes of them."""

import itertools
import math

import pytest
import torch
from torch import nn

import zoo
from tests.blocks import norms_in
from zoo.bench import latency, profile, train_step
from zoo.bench.concat_add import SHAPES, Case, measure_modules, measure_networks, measure_operators
from zoo.bench.environment import commit, cpu, environment
from zoo.bench.memory import bounded_memory, is_out_of_memory, resident_peak, tensor_peak
from zoo.bench.peak import gemm_peak, measure_peaks, triad_bandwidth
from zoo.bench.plots import plots
from zoo.bench.results import document
from zoo.bench.statistics import paired_ratio
from zoo.bench.tables import console, tables
from zoo.bench.timing import Plan
from zoo.bench.traffic import traffic
from zoo.cost import count
from zoo.reparam.block import MultiBranchConv2d

PLAN = Plan(rounds=8, seconds=5, warmup_seconds=0.05)
TINY = "repvgg_tiny"
CPU = torch.device("cpu")


# Memory, traffic, limits


def test_tensor_memory_counts_what_is_alive_at_once():
    x = torch.zeros(1000)

    def call():
        first = x + 1
        second = first * 2  # 2 alive
        del first
        third = second.view(10, 100).relu_().view(-1)  # a view and an in-place result: no new memory
        return third - x  # 2 alive

    assert tensor_peak(call) == 2 * 4000


def test_tensor_memory_sees_the_backward_pass():
    x = torch.ones(1000, requires_grad=True)
    assert tensor_peak(lambda: (x * 2).sum().backward()) >= 4000  # the gradient at least
    x.grad = None
    with torch.inference_mode():
        assert tensor_peak(lambda: ((x + 1) * 2).sum()) == 2 * 4000


def test_resident_memory_rises_by_what_a_call_touches():
    rise = resident_peak(lambda: torch.ones(25_000_000).sum())
    if rise is None:
        pytest.skip("this kernel does not let a process reset its high-water mark")
    assert 0.8e8 < rise < 2e8


def test_resident_memory_is_unknown_without_proc(tmp_path):
    called = []
    assert resident_peak(lambda: called.append(1), tmp_path) is None
    assert called == [1]


def test_running_out_of_memory_is_an_error_and_not_the_end():
    with bounded_memory(), pytest.raises(RuntimeError) as caught:
        torch.empty(2**44)
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("shape mismatch"))


def test_traffic_of_a_convolution_is_input_weight_and_output():
    conv = nn.Conv2d(4, 8, 3, padding=1, bias=False)
    assert traffic(conv, (2, 4, 10, 10)) == 2 * 4 * 100 + 8 * 4 * 9 + 2 * 8 * 100
    assert traffic(nn.Sequential(conv, nn.ReLU()), (2, 4, 10, 10)) == traffic(conv, (2, 4, 10, 10))


def test_traffic_is_counted_where_the_way_through_depends_on_the_data():
    class Gate(nn.Conv2d):
        def forward(self, x):
            return super().forward(x) if x.sum() < 1 else x

    assert traffic(Gate(4, 8, 1, bias=False), (2, 4, 10, 10)) == 2 * 4 * 100 + 8 * 4 + 2 * 8 * 100


def test_limits_are_plausible():
    peaks = measure_peaks(["fp32"], CPU, seconds=0.05)
    assert peaks.keys() == {"gemm_fp32", "triad"}
    assert 1e8 < peaks["gemm_fp32"] < 1e14
    assert 1e8 < triad_bandwidth(CPU, elements=2**20, seconds=0.02) < 1e13
    int8 = gemm_peak("int8", CPU, size=256, seconds=0.05)
    assert int8 is None or int8 > 1e7


def test_environment_reads_the_cpu(tmp_path):
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nmodel name\t: Xeon\nflags\t\t: fpu avx2 avx512f amx_bf16 avx512_vnni\n")
    assert cpu(info)["model"] == "Xeon"
    assert cpu(info)["features"] == ["avx2", "avx512", "avx512_vnni", "amx_bf16"]
    assert {"date", "cpu", "versions", "load_average", "commit", "torch_threads"} <= environment().keys()
    assert commit(tmp_path) is None


# Rows


def test_latency_rows_of_a_group():
    contenders = latency.contenders_of(TINY, ["peer", "train", "deployed"], ["eager"], ["fp32", "int8"])
    setting = latency.Setting(batch_size=2, img_size=32, threads=1)
    rows = latency.measure_group(contenders, setting, PLAN, peaks={"gemm_fp32": 5e10, "triad": 1e10})
    assert [(r["structure"], r["precision"], r["status"]) for r in rows] == [
        ("peer", "fp32", "ok"),
        ("train", "fp32", "ok"),
        ("train", "int8", "unsupported"),
        ("deployed", "fp32", "ok"),
        ("deployed", "int8", "unsupported"),
        ("control", "fp32", "ok"),
    ]
    assert "no int8 path" in rows[2]["error"]
    peer, deployed = rows[0], rows[3]
    assert peer["speedup"]["value"] == 1.0
    assert deployed["speedup"]["value"] == pytest.approx(
        paired_ratio(peer["samples"], deployed["samples"]).value, rel=1e-3
    )
    cost = count(zoo.create_model(TINY, deploy=True), (3, 32, 32))
    assert deployed["params"] == cost.params
    assert deployed["macs"] == 2 * cost.macs
    assert deployed["macs_per_s"] == pytest.approx(2 * cost.macs / deployed["median"])
    assert deployed["share_of_gemm_peak"] == pytest.approx(deployed["macs_per_s"] / 5e10)
    assert deployed["images_per_s"] == pytest.approx(2 / deployed["median"])
    assert len(deployed["samples"]) == deployed["n"] <= PLAN.rounds
    assert deployed["peak_memory"] < rows[1]["peak_memory"]  # one branch at a time is less than several
    assert "warning" not in peer
    assert deployed["parity_error"] < 1e-4


def test_running_out_of_memory_is_one_row(monkeypatch):
    build = latency._build

    def too_large(contender, source):
        if contender.structure == "train":
            torch.empty(2**44)
        return build(contender, source)

    monkeypatch.setattr(latency, "_build", too_large)
    contenders = latency.contenders_of(TINY, ["train", "deployed"], ["eager"], ["fp32"])
    rows = latency.measure_group(contenders, latency.Setting(batch_size=1, img_size=32, threads=1), PLAN, peaks={})
    assert [(row["structure"], row["status"]) for row in rows] == [
        ("train", "out of memory"),
        ("deployed", "ok"),
        ("control", "ok"),
    ]
    assert "memory" in rows[0]["error"]


@pytest.mark.parametrize("kind", ["latency", "concat-add", "train", "profile"])
def test_images_that_do_not_fit_are_a_row_too(kind):
    batch = 2**36  # in float32, more than any address space holds
    setting = {"batch_size": batch, "img_size": 32, "threads": 1}
    if kind == "latency":
        contenders = latency.contenders_of(TINY, ["train", "deployed"], ["eager"], ["fp32"])
        rows = latency.measure_group(contenders, latency.Setting(**setting), PLAN, peaks={})
    elif kind == "concat-add":
        modules = measure_modules(SHAPES[-1], batch, "eager", 1, PLAN)
        rows = [modules, measure_networks(1.0, batch, 32, "eager", 1, PLAN)]
    elif kind == "train":
        contenders = train_step.contenders_of(TINY, ["plain", "train"], ["nhwc"], ["fp32"])
        rows = train_step.measure_model(contenders, **setting, plan=PLAN)
    else:
        rows = profile.profile_model(TINY, ["train", "deployed"], **setting, plan=PLAN)
    assert [row["status"] for row in rows] == ["out of memory"] * 2
    result = document(kind, rows)
    assert console(tables(result)[-1]).count("out of memory: ") == 2
    assert plots(result) == {}


def test_the_limits_of_an_auto_row_are_those_of_the_precision_it_chose():
    contenders = latency.contenders_of(TINY, ["deployed"], ["eager", "auto"], ["fp32", "bf16"])
    contenders = [contender for contender in contenders if contender.name != f"{TINY} deployed eager bf16"]
    setting = latency.Setting(batch_size=1, img_size=32, threads=1)
    rows = latency.measure_group(contenders, setting, PLAN, peaks={"triad": 1e10})
    eager, _, auto = rows[:3]
    assert auto["precision"] == "bf16"
    assert auto["bytes"] == eager["bytes"] // (2 if auto["chosen"].endswith("bf16") else 1)


def test_auto_is_a_row_for_each_set_of_precisions():
    rows = latency.contenders_of("resnet18", ["peer", "train", "deployed"], ["eager", "auto"], ["fp32", "bf16"])
    assert [(r.structure, r.engine, r.precision) for r in rows] == [
        ("peer", "eager", "fp32"),
        ("train", "eager", "fp32"),
        ("train", "eager", "bf16"),
        ("deployed", "eager", "fp32"),
        ("deployed", "eager", "bf16"),
        ("deployed", "auto", "fp32"),
        ("deployed", "auto", "bf16"),
    ]


def test_training_rows_split_the_step(monkeypatch):
    ticks = itertools.accumulate(itertools.cycle([10.0, 1.0, 2.0, 4.0]))
    monkeypatch.setattr(train_step.Step, "_now", lambda self: next(ticks))
    contenders = train_step.contenders_of(TINY, ["plain", "train"], ["nhwc"], ["fp32"])
    rows = train_step.measure_model(contenders, batch_size=4, img_size=32, threads=1, plan=PLAN)
    plain, train = rows
    assert [row["status"] for row in rows] == ["ok", "ok"]
    for row in rows:
        assert (row["forward"], row["backward"], row["optimizer"]) == (1.0, 2.0, 4.0)
    assert train["saved_activations"] > 1.3 * plain["saved_activations"]
    assert train["peak_memory"] > plain["peak_memory"]
    assert train["params"] > plain["params"]
    assert train["step_ratio"]["value"] == pytest.approx(
        paired_ratio(train["samples"], plain["samples"]).value, rel=1e-3
    )


def test_saved_activations_are_exact():
    """conv → BN → ReLU: convolution and BN keep their inputs, ReLU its output, the loss its log-probabilities."""
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(1))
    contender = train_step.Contender(model="", structure="plain", layout="nchw")
    kept, peak = train_step.step_memory(train_step.Step(network, contender, 2, 8, "cpu"))
    maps, logits = 2 * 8 * 64 * 4, 2 * 512 * 4
    conv_output, relu_output, batch_norm = maps, maps, 2 * 8 * 4
    assert kept == pytest.approx(conv_output + relu_output + logits + batch_norm, abs=64)
    assert peak > kept


def test_the_plain_twin_is_the_deployed_network_with_one_norm_each():
    network = zoo.create_model(TINY)
    twin = train_step.plain(network)
    blocks = sum(isinstance(module, MultiBranchConv2d) for module in network.modules())
    assert norms_in(twin) == blocks
    deployed = zoo.deploy(twin.eval(), torch.randn(1, 3, 32, 32))
    assert count(deployed).params == count(zoo.create_model(TINY, deploy=True)).params


def test_peers_train_in_nchw_only():
    rows = train_step.contenders_of("repvgg_a0", ["train", "peer"], ["nhwc"], ["fp32"])
    assert [(row.structure, row.layout) for row in rows] == [("train", "nhwc"), ("peer", "nchw")]
    assert [r.structure for r in train_step.contenders_of("dbb_resnet18", ["peer", "train"], ["nhwc"], ["fp32"])] == [
        "train"
    ]


def test_profile_accounts_for_the_whole_pass(monkeypatch):
    ticks = itertools.count()  # every reading of the clock is one second later: a layer lasts 1, times are exact
    monkeypatch.setattr(profile.Recorder, "_now", lambda self, args: float(next(ticks)))
    rows = profile.profile_model(TINY, ["train", "deployed"], batch_size=1, img_size=32, threads=1, plan=PLAN)
    for structure in ("train", "deployed"):
        mine = [row for row in rows if row["structure"] == structure]
        (network,) = [row for row in mine if row["level"] == "network"]
        kinds = [row for row in mine if row["level"] == "kind"]
        assert network["share"] == 1.0
        assert sum(row["median"] for row in kinds) == network["median"]
        assert {row["median"] for row in mine if row["level"] == "layer"} == {1.0}
    levels = {(row["structure"], row["level"]) for row in rows}
    assert ("train", "branch") in levels
    assert ("deployed", "branch") not in levels
    kinds = {row["kind"] for row in rows if row["structure"] == "deployed" and row["level"] == "kind"}
    assert "BatchNorm" not in kinds
    assert "conv 3x3" in kinds


def test_layers_are_named_by_what_they_compute():
    assert profile.kind_of(nn.Conv2d(8, 8, 3, groups=8)) == "depthwise 3x3"
    assert profile.kind_of(nn.Conv2d(8, 16, (1, 3))) == "conv 1x3"
    assert profile.kind_of(nn.BatchNorm2d(4)) == "BatchNorm"


@pytest.mark.parametrize("engine", ["eager", "onnxruntime", "openvino"])
def test_operators_report_times_and_bytes(engine):
    pytest.importorskip(engine) if engine != "eager" else None
    case = Case(shape=SHAPES[-1], batch_size=1, engine=engine, layout="nhwc", threads=1)
    operator, equal_width = measure_operators(case, PLAN)
    elements = 480 * 7 * 7
    assert operator["concat"]["bytes"] == 4 * 4 * elements
    assert operator["add"]["bytes"] == 4 * 3 * elements
    assert equal_width["add"]["bytes"] == 4 * 6 * elements
    fastest, slowest = (
        operator["concat"]["minimum"] / operator["add"]["p99"],
        operator["concat"]["p99"] / operator["add"]["minimum"],
    )
    assert fastest <= operator["ratio"]["value"] <= slowest
    assert operator["add"]["bandwidth"] == pytest.approx(12 * elements / operator["add"]["median"])
    assert not math.isnan(operator["ratio"]["low"])


def test_module_rows_name_what_cannot_run(monkeypatch):
    monkeypatch.setattr("zoo.bench.concat_add.refusal", lambda engine, precision: f"{engine} is not installed")
    row = measure_modules(SHAPES[-1], 1, "openvino", 1, PLAN)
    assert (row["status"], row["error"]) == ("unsupported", "openvino is not installed")


def test_module_rows_compare_ghost_with_repghost():
    row = measure_modules(SHAPES[-1], 1, "eager", 1, PLAN)
    assert row["comparison"] == "module"
    assert row["ratio"]["low"] <= row["ratio"]["value"] <= row["ratio"]["high"]
