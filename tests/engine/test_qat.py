"""Training with int8 rounding: it is in the forward pass, it is trained, and the file that is written computes it."""

import importlib.util
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import openvino
import pytest
import torch
from torch import Tensor, nn

import zoo
from tests.support.blocks import randomise
from tests.support.export_networks import images, small_network
from tests.support.training import small_config, small_run
from zoo import runtime
from zoo.checkpoints import save_weights
from zoo.data.fashion import Fashion
from zoo.data.image_sets import spread
from zoo.engine import qat
from zoo.engine.build import open_dataset
from zoo.engine.distributed import Processes
from zoo.engine.train import train
from zoo.export import int8
from zoo.export.graphs import to_openvino
from zoo.runtime.engines import openvino_core

SHORT = ["--qat", "--epochs=1", "--no-decay=1d", "--lr=0.001"]


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Weights of a network whose BatchNorms are away from their initial state."""
    path = tmp_path_factory.mktemp("start") / "start.safetensors"
    torch.manual_seed(0)
    network = randomise(zoo.create_model("repvgg_tiny", num_classes=10))
    save_weights(path, network.state_dict(), {"model": "repvgg_tiny", "num_classes": 10})
    return path


@pytest.fixture(scope="module")
def trained(start, tmp_path_factory):
    """A short training with rounding."""
    folder = tmp_path_factory.mktemp("qat") / "run"
    return folder, small_run(folder, *SHORT, f"--checkpoint={start}")


def test_the_file_rounds_as_the_training_did(trained):
    folder, outcome = trained
    batch = images(16, 16)
    with torch.no_grad():
        simulated, written = outcome.network(batch), outcome.deployed(batch)
        same_weights_in_float = zoo.create_model("repvgg_tiny", checkpoint=folder / "last.pt", num_classes=10)(batch)
        largest = simulated.abs().max()
    errors = (written - simulated).abs().amax(1) / largest
    # Equal but for a value that lies on the edge between two steps, which may fall to either side.
    assert errors.median() < 1e-6 and errors.max() < 0.1
    assert ((same_weights_in_float - simulated).abs().amax(1) / largest).min() > 1e-3


def test_what_is_reported_is_what_the_written_file_answers(trained):
    folder, outcome = trained
    classifier = runtime.load(folder / "deployed.xml")
    assert classifier.preparation.class_names == Fashion("val").classes
    shown = spread(Fashion("val"), 30)
    pictures, labels = zip(*(shown[i] for i in range(30)), strict=True)
    right = sum(classifier.predict(pictures).argmax(1) == np.array(labels))
    assert outcome.results["top1"] == pytest.approx(100 * right / 30)
    assert outcome.results["deployed"] == str(folder / "deployed.xml")


def test_the_scores_before_the_training_stand_beside_those_after(trained, start):
    folder, outcome = trained
    scores, first = outcome.results["scores"], (folder / "summary.csv").read_text().splitlines()[1]
    weights = outcome.results["weights"]
    assert [*scores] == ["float", "int8, not trained", f"{weights}/train", f"{weights}/deployed"]
    before = zoo.create_model("repvgg_tiny", checkpoint=start, num_classes=10).eval()
    config = small_config(folder.parent / "other", *SHORT)
    loader = qat.make_eval_loader(config, open_dataset(config.data, False), before, Processes())
    with torch.no_grad():
        right = sum(int((before(batch).argmax(1) == labels).sum()) for batch, labels, _ in loader)
    assert scores["float"]["top1"] == pytest.approx(100 * right / 30)
    assert first.startswith("0,0,")


class Whole(nn.Module):
    """A network in a part of another."""

    def __init__(self) -> None:
        super().__init__()
        self.part = small_network()

    def forward(self, x: Tensor) -> Tensor:
        return self.part(x)


@pytest.fixture
def quantised(tmp_path):
    config = small_config(tmp_path / "run", *SHORT)
    return qat.quantise(Whole().eval(), config, open_dataset(config.data, True), Processes())


def test_weights_and_ranges_learn(quantised):
    quantised(images(4)).square().sum().backward()
    trained = {name: p.grad for name, p in quantised.named_parameters() if p.requires_grad}
    assert {"part.stem.0.weight", "part.conv.weight", "part.head.weight"} <= trained.keys()
    assert sum(name.endswith("_scale_param_storage") for name in trained) >= 4
    assert [name for name, gradient in trained.items() if gradient is None or not gradient.abs().sum()] == []


@pytest.mark.parametrize("saturates, largest", [(True, 64), pytest.param(False, 128, marks=pytest.mark.slow)])
def test_weights_stay_within_the_bits_that_the_cpu_bears(saturates, largest, tmp_path, monkeypatch):
    for module in (qat, int8):
        monkeypatch.setattr(module, "saturates_int8", lambda: saturates)
    config = small_config(tmp_path / "run", *SHORT)
    network = qat.quantise(zoo.create_model("repvgg_tiny"), config, open_dataset(config.data, True), Processes())
    for name, weight in network.named_parameters():
        if name.endswith("conv.weight"):
            weight.data *= 3  # as if it had learnt to be larger: the ranges have not
    model = in_openvino(network)
    stored = [op.data for op in model.get_ops() if op.get_type_name() == "Constant" and op.data.dtype == np.int8]
    assert len(stored) == 9
    assert max(int(abs(weight.astype(int)).max()) for weight in stored) == largest


def test_depthwise_convolutions_and_gates_stay_in_float(quantised):
    rounded = Counter()
    for op in in_openvino(quantised).get_ops():
        if op.get_type_name() in ("Convolution", "GroupConvolution", "MatMul"):
            rounded[op.get_type_name(), op.input_value(0).get_node().get_type_name() == "FakeQuantize"] += 1
    # The stem and the block; the gate is a convolution of 1×1 maps.
    assert rounded == {
        ("Convolution", True): 2,
        ("Convolution", False): 1,
        ("GroupConvolution", False): 1,
        ("MatMul", True): 1,
    }


def in_openvino(network: nn.Module):
    """The model as it is in a file."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "int8.xml")
        openvino.save_model(to_openvino(network.eval(), images(2, 16)), file, compress_to_fp16=False)
        return openvino_core().read_model(file)


def test_its_checkpoint_is_one_of_the_deployed_network_to_all_others(trained, caplog):
    folder, _ = trained
    network = zoo.create_model("repvgg_tiny", checkpoint=folder / "last.pt", num_classes=10)
    assert zoo.is_deployed(network) and "left out what repvgg_tiny has no place for" in caplog.text
    saved = torch.load(folder / "last.pt", weights_only=True)["state_dict"]
    assert torch.equal(network.get_parameter("stem.conv.weight"), saved["stem.conv.weight"])


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--merge-pixels=16", "--torchcompile"], "in float32: drop --merge-pixels, --torchcompile"),
        (["--amp-dtype=bfloat16"], "in float32: drop --amp-dtype bfloat16"),
        (["--equivalent-l2=1e-4"], "no equivalent kernel to penalise"),
        (["--no-decay=!*.branches.*"], "no parameter of the network matches"),
    ],
)
def test_what_does_not_go_with_it_is_refused(flags, message, start, tmp_path):
    with pytest.raises(ValueError, match=message):
        small_run(tmp_path / "run", *SHORT, f"--checkpoint={start}", *flags)


@pytest.mark.parametrize(
    "network, what", [(small_network, "traced anew"), (lambda: nn.Sequential(small_network()), r"nn\.Sequential")]
)
def test_networks_that_nncf_takes_for_something_else_are_refused(network, what, tmp_path):
    config = small_config(tmp_path / "run", *SHORT)
    with pytest.raises(ValueError, match=f"qat: NNCF trains no network that is {what}.*: wrap it in a module"):
        qat.quantise(network().eval(), config, open_dataset(config.data, True), Processes())


def test_fresh_weights_streams_and_other_processes_are_refused(tmp_path, monkeypatch):
    config = small_config(tmp_path / "run", *SHORT)
    with pytest.raises(ValueError, match="qat: refines trained weights: give --checkpoint, or --pretrained"):
        train(config)
    with pytest.raises(ValueError, match="a set with an index, not a stream"):
        qat.refuse(config, iter(()), True, Processes())
    with pytest.raises(ValueError, match="drop several processes"):
        qat.refuse(config, open_dataset(config.data, True), True, Processes(world_size=2))
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "nncf" else find(name))
    with pytest.raises(ValueError, match=r"qat: nncf is not installed: pip install nncf \(our extra \[openvino\]\)"):
        train(config)
