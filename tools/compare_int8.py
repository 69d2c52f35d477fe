"""What int8 costs small trained networks: top-1 on the bundled validation images, format by format and way by way.

    python tools/compare_int8.py --seeds 0 1 2 3 4 --networks RepVGG QARepVGG

Trains each network by the quickstart's recipe, one thread, and quantises the deployed one on 256 training images in
every way of `zoo export --max-drop 0.3`; the last way sees the validation images that judge it. Besides, with one scale
for a whole weight instead of one per output channel: there RepVGG is said to collapse and QARepVGG not (arXiv
2212.01593). Trainings and results are kept, so it can be interrupted, and continued with more seeds; ways that an older
result lacks are measured on the same network.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from training_runs import run_training

import zoo
from zoo.data import calibration_images, labelled_images
from zoo.export import Goal, onnx_engine, openvino_engine
from zoo.export.cpu import saturates_int8
from zoo.export.engines import Source
from zoo.export.files import FORMATS
from zoo.export.formats import Format, Order, Way
from zoo.export.int8 import MIXED
from zoo.network import example_input, preprocessing
from zoo.results.files import read_result, result_of, to_json, write_result
from zoo.results.surveys import TrainingRun

NETWORKS = {
    "RepVGG": [],
    "QARepVGG": ["--model=qarepvgg_tiny"],
    "ACB": ["--block=acb"],
    "DBB": ["--block=dbb"],
    "RepGhostNet": ["--model=repghostnet_0.5x", "--img-size=64"],
}
"""What is trained → how that differs from the quickstart."""
RECIPE = ["--config=quickstart", "--threads=1", "--workers=0"]
MAX_DROP = 0.3


def whole_weight(order: Order) -> Any:
    """Quantise an OpenVINO model as always, but with one scale for a whole weight."""
    from nncf.quantization.advanced_parameters import QuantizationParameters

    parameters = QuantizationParameters(per_channel=False)
    source = order.source
    return openvino_engine.quantize_model(
        source.openvino_model, source.calibration, weights_quantization_params=parameters
    )


PER_TENSOR: dict[str, Way] = {
    "onnx": lambda order: onnx_engine.quantize_graph(
        order.source.onnx_graph, order.source.calibration, per_channel=False
    ),
    "openvino": whole_weight,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("results/compare_int8.json"))
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=[*NETWORKS])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--scratch", type=Path, default=Path("output/compare_int8"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    runs: list[TrainingRun] = read_result(options.output).records if options.output.exists() else []
    for seed in options.seeds:
        for network in options.networks:
            old = next((run for run in runs if (run.variant, run.seed) == (network, seed)), None)
            if old is None or old.results.keys() != ways().keys():
                place = runs.index(old) if old else len(runs)
                for run in measure(network, seed, train(network, seed, options.scratch), old):
                    runs[place : place + 1] = [run]
                    settings = {"recipe": " ".join(RECIPE), "networks": NETWORKS, "max_drop": MAX_DROP}
                    settings["weight_bits"] = 7 if saturates_int8() else 8
                    write_result(options.output, result_of("training", runs, settings=settings))
                print(to_json(runs[place]), flush=True)
    return 0


def ways() -> dict[str, tuple[Format, Way]]:
    """`FORMAT: WAY` → the kind of file and how its int8 is made."""
    found = {}
    for name, kind in FORMATS.items():
        per_tensor = {"one scale a weight": PER_TENSOR[name]} if name in PER_TENSOR else {}
        found |= {f"{name}: {title}": (kind, way) for title, way in {**kind.ways, **per_tensor}.items()}
    return found


def train(network: str, seed: int, scratch: Path) -> Path:
    """Train a network, unless that was done before; the file of the deployed one."""
    folder = scratch / f"{network}-{seed}"
    deployed = folder / "deployed.safetensors"
    if not deployed.exists():
        run_training([*RECIPE, *NETWORKS[network], f"--seed={seed}"], folder)
    return deployed


def measure(network: str, seed: int, weights: Path, old: TrainingRun | None) -> Iterator[TrainingRun]:
    """Top-1 over the 2,000 validation images in float32, and in int8 in one more way each time, `old`'s first."""
    source, goal = prepare(weights)
    top1 = [goal.top1(source.network)]
    found = dict(old.results) if old and old.top1 == top1 else {}  # else it was another training
    missing = {name: made for name, made in ways().items() if name not in found}
    for name, (kind, way) in sorted(missing.items(), key=lambda item: MIXED in item[0]):  # takes longest
        try:
            found[name] = top1_of_file(kind, way, source, goal)
        except ValueError as error:
            print(f"{network}: {name}: {error}", file=sys.stderr)
            continue
        ordered = {name: found[name] for name in ways() if name in found}
        yield TrainingRun(variant=network, seed=seed, top1=top1, results=ordered)


def prepare(weights: Path) -> tuple[Source, Goal]:
    """A deployed network with 256 training images to calibrate on, and the validation images that judge it."""
    checkpoint = zoo.read_checkpoint(weights)
    assert checkpoint.model
    model = zoo.create_model(checkpoint.model, checkpoint=checkpoint, **checkpoint.built_with).eval()
    example, cut = example_input(model, 1), preprocessing(model)
    calibration = calibration_images("fashion", None, "train", 256, cut, example.shape[-1])
    goal = Goal([*labelled_images("fashion", None, cut, example.shape[-1])], MAX_DROP)
    return Source(model, example, tuple(calibration)), goal


def top1_of_file(kind: Format, way: Way, source: Source, goal: Goal) -> float:
    """Quantise in one way, write the file, read it back, and judge that."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, f"network{kind.suffix}")
        kind.write(Order(source, "int8", "{}", free_batch=True, way=way, goal=goal), file)
        return goal.top1(kind.read(file, "int8"))


if __name__ == "__main__":
    sys.exit(main())
