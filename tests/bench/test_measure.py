"""The rows that the benchmark makes of what it measures."""

import itertools

import numpy
import pytest
import torch
from torch import nn

import zoo
from tests.support.blocks import norms_in
from zoo.bench import latency, profile, train_step
from zoo.bench.concat_add import SHAPES, measure_modules, measure_networks, measure_operators
from zoo.bench.joins import JOINS
from zoo.bench.statistics import paired_ratio
from zoo.bench.timing import Plan
from zoo.cost import count
from zoo.reparam.block import MultiBranchConv2d
from zoo.results.files import result_of
from zoo.results.plots import plots
from zoo.results.records import TrainStep
from zoo.results.views import tables

PLAN = Plan(rounds=8, seconds=5, warmup_seconds=0.05)
TINY = "repvgg_tiny"
AT = {"batch_size": 1, "img_size": 32, "threads": 1}
CPU = torch.device("cpu")


# Records


def test_latency_rows_of_a_group():
    setting = AT | {"batch_size": 2}
    contenders = latency.contenders_of(TINY, ["peer", "train", "deployed"], ["eager"], ["fp32", "int8"], **setting)
    rows = latency.measure_group(contenders, PLAN)
    assert [(r.structure, r.precision, r.status) for r in rows] == [
        ("peer", "fp32", "ok"),
        ("train", "fp32", "ok"),
        ("train", "int8", "unsupported"),
        ("deployed", "fp32", "ok"),
        ("deployed", "int8", "unsupported"),
        ("control", "fp32", "ok"),
    ]
    assert "no int8 path" in rows[2].error
    peer, deployed = rows[0], rows[3]
    assert peer.speedup.value == 1.0
    assert deployed.speedup.value == pytest.approx(paired_ratio(peer.samples, deployed.samples).value, rel=1e-3)
    cost = count(zoo.create_model(TINY, deploy=True), (3, 32, 32))
    assert deployed.params == cost.params
    assert deployed.macs == 2 * cost.macs
    assert deployed.macs_per_s == pytest.approx(2 * cost.macs / deployed.time.median)
    assert deployed.images_per_s == pytest.approx(2 / deployed.time.median)
    assert len(deployed.samples) == deployed.time.n <= PLAN.rounds
    assert deployed.peak_memory < rows[1].peak_memory  # one branch at a time is less than several
    assert peer.is_reference and peer.warning is None
    assert deployed.parity_error < 1e-4


def test_running_out_of_memory_is_one_row(monkeypatch):
    build = latency._build

    def too_large(contender, source):
        if contender.structure == "train":
            torch.empty(2**44)
        return build(contender, source)

    monkeypatch.setattr(latency, "_build", too_large)
    contenders = latency.contenders_of(TINY, ["train", "deployed"], ["eager"], ["fp32"], **AT)
    rows = latency.measure_group(contenders, PLAN)
    assert [(row.structure, row.status) for row in rows] == [
        ("train", "out of memory"),
        ("deployed", "ok"),
        ("control", "ok"),
    ]
    assert "memory" in rows[0].error


@pytest.mark.parametrize("kind", ["latency", "concat-add", "train", "profile"])
def test_images_that_do_not_fit_are_a_row_too(kind):
    batch = 2**36  # in float32, more than any address space holds
    setting = {"batch_size": batch, "img_size": 32, "threads": 1}
    if kind == "latency":
        contenders = latency.contenders_of(TINY, ["train", "deployed"], ["eager"], ["fp32"], **setting)
        rows = latency.measure_group(contenders, PLAN)
    elif kind == "concat-add":
        modules = measure_modules(SHAPES[-1], batch, "eager", 1, PLAN)
        rows = [*modules, *measure_networks(1.0, batch, 32, "eager", 1, PLAN)]
    elif kind == "train":
        contenders = train_step.contenders_of(TINY, ["plain", "train"], ["nhwc"], ["fp32"], **setting)
        rows = train_step.measure_model(contenders, PLAN)
    else:
        rows = profile.profile_model(TINY, ["train", "deployed"], **setting, plan=PLAN)
    assert [row.status for row in rows] == ["out of memory"] * 2
    result = result_of(kind, rows)
    assert tables(result)[-1].text().count("out of memory: ") == 2
    assert plots(result) == {}


def test_the_limits_of_an_auto_row_are_those_of_the_precision_it_chose(monkeypatch):
    monkeypatch.setattr("zoo.export.compile.AUTO", ("eager", "openvino"))
    contenders = latency.contenders_of(TINY, ["deployed"], ["eager", "auto"], ["fp32", "bf16"], **AT)
    contenders = [contender for contender in contenders if contender.name != f"{TINY} deployed eager bf16"]
    rows = latency.measure_group(contenders, PLAN)
    eager, _, auto = rows[:3]
    assert auto.precision == "bf16"
    assert auto.bytes == eager.bytes // (2 if auto.chosen.endswith("bf16") else 1)


def test_auto_is_a_row_for_each_set_of_precisions():
    rows = latency.contenders_of("resnet18", ["peer", "train", "deployed"], ["eager", "auto"], ["fp32", "bf16"], **AT)
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
    setting = AT | {"batch_size": 4}
    contenders = train_step.contenders_of(TINY, ["plain", "train"], ["nhwc"], ["fp32"], merge_pixels=32, **setting)
    rows = train_step.measure_model(contenders, PLAN)
    plain, train, merged = rows
    assert [row.status for row in rows] == ["ok", "ok", "ok"]
    assert [(row.structure, row.merge_pixels) for row in rows] == [("plain", None), ("train", None), ("merged", 32)]
    for row in rows:
        assert (row.forward, row.backward, row.optimizer) == (1.0, 2.0, 4.0)
    assert train.saved_activations > 1.3 * plain.saved_activations
    assert train.peak_memory > plain.peak_memory
    assert train.params == merged.params > plain.params
    assert train.step_ratio.value == pytest.approx(paired_ratio(train.samples, plain.samples).value, rel=1e-3)


def test_saved_activations_are_exact():
    """conv → BN → ReLU: convolution and BN keep their inputs, ReLU its output, the loss its log-probabilities."""
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(1))
    what = {"model": "", "structure": "plain", "layout": "nchw", "precision": "fp32"}
    record = TrainStep(**what, batch_size=2, img_size=8, threads=1)
    kept, peak = train_step.step_memory(train_step.Step(network, record))
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
    rows = train_step.contenders_of("repvgg_a0", ["train", "peer"], ["nhwc"], ["fp32"], **AT)
    assert [(row.structure, row.layout) for row in rows] == [("train", "nhwc"), ("peer", "nchw")]
    rows = train_step.contenders_of("dbb_resnet18", ["peer", "train"], ["nhwc"], ["fp32"], **AT)
    assert [row.structure for row in rows] == ["train"]


def test_profile_accounts_for_the_whole_pass(monkeypatch):
    ticks = itertools.count()  # every reading of the clock is one second later: a layer lasts 1, times are exact
    monkeypatch.setattr(profile.Recorder, "_now", lambda self, args: float(next(ticks)))
    rows = profile.profile_model(TINY, ["train", "deployed"], batch_size=1, img_size=32, threads=1, plan=PLAN)
    for structure in ("train", "deployed"):
        mine = [row for row in rows if row.structure == structure]
        (network,) = [row for row in mine if row.level == "network"]
        kinds = [row for row in mine if row.level == "kind"]
        assert network.share == 1.0
        assert sum(row.median for row in kinds) == network.median
        assert {row.median for row in mine if row.level == "layer"} == {1.0}
    levels = {(row.structure, row.level) for row in rows}
    assert ("train", "branch") in levels
    assert ("deployed", "branch") not in levels
    kinds = {row.kind for row in rows if row.structure == "deployed" and row.level == "kind"}
    assert "BatchNorm" not in kinds
    assert "conv 3x3" in kinds


def test_layers_are_named_by_what_they_compute():
    assert profile.kind_of(nn.Conv2d(8, 8, 3, groups=8)) == "depthwise 3x3"
    assert profile.kind_of(nn.Conv2d(8, 16, (1, 3))) == "conv 1x3"
    assert profile.kind_of(nn.BatchNorm2d(4)) == "BatchNorm"


@pytest.mark.parametrize("engine", ["eager", "onnxruntime", "openvino", "ncnn", "mnn"])
def test_operators_report_times_and_bytes(engine):
    operator, equal_width = measure_operators(SHAPES[-1], 1, engine, "nhwc", 1, PLAN)
    elements = 480 * 7 * 7
    assert operator.concat.bytes == 4 * 4 * elements
    assert operator.add.bytes == 4 * 3 * elements
    assert equal_width.add.bytes == 4 * 6 * elements
    fastest, slowest = (
        operator.concat.time.minimum / operator.add.time.p99,
        operator.concat.time.p99 / operator.add.time.minimum,
    )
    assert fastest <= operator.ratio.value <= slowest
    assert operator.add.bandwidth == pytest.approx(12 * elements / operator.add.time.median)
    assert operator.ratio.low is not None


@pytest.mark.parametrize("operation, joined", [("concat", [[1.0, 1, 2, 2], [3, 3, 4, 4]]), ("add", [[3.0, 3], [7, 7]])])
def test_ncnn_joins_the_maps_of_one_image(operation, joined):
    a, b = (torch.tensor([[1.0, 1], [3, 3]]).view(1, 1, 2, 2) + step for step in (0, 1))
    _, answer = JOINS["ncnn"](operation, 3, a, b, 1)()
    assert numpy.array(answer).tolist() == [joined]


def test_ncnn_says_that_it_knows_no_batch():
    (row, _) = measure_operators(SHAPES[-1], 2, "ncnn", "nchw", 1, PLAN)
    assert (row.status, row.error) == ("unsupported", "ncnn has no batch dimension: it joins the maps of one image")


def test_module_rows_name_what_cannot_run(monkeypatch):
    monkeypatch.setattr("zoo.bench.concat_add.refusal", lambda engine, precision: f"{engine} is not installed")
    (row,) = measure_modules(SHAPES[-1], 1, "openvino", 1, PLAN)
    assert (row.status, row.error) == ("unsupported", "openvino is not installed")


def test_module_rows_compare_ghost_with_repghost():
    (row,) = measure_modules(SHAPES[-1], 1, "eager", 1, PLAN)
    assert row.comparison == "module"
    assert row.ratio.low <= row.ratio.value <= row.ratio.high


def test_nothing_to_time_is_no_rows():
    assert latency.measure_group(latency.contenders_of(TINY, ["train"], ["auto"], ["fp32"], **AT), PLAN) == []
    assert train_step.measure_model(train_step.contenders_of(TINY, ["peer"], ["nhwc"], ["fp32"], **AT), PLAN) == []
