"""Fold other people's networks: layers left by timm's own converter and by `zoo.fold`, the error, what is left, speed.

    python tools/region_survey.py --output results/region_survey.json

Every network is built with random weights and randomised BatchNorm statistics, and folded in float64. Then it is timed
in float32 as built and as folded, in turn: one image (of half the network's size where it takes that), one thread. The
results are written after every network; a second
run goes on where the first stopped. The detectors' parts are built where `transformers` is installed.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import importlib.util
import sys
import time
from collections import Counter
from pathlib import Path

import torch
from convert_survey import MISHAPS, build, randomised
from timm.utils.model import reparameterize_model
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

import zoo
from zoo.bench.statistics import paired_ratio, summarize
from zoo.bench.timing import Plan, interleave
from zoo.network import proof_input
from zoo.results.files import read_result, result_of, to_json, write_result
from zoo.results.surveys import Folding

NETWORKS = """
    repvit_m0_9 fastvit_t8 mobileone_s1 repvgg_a0 levit_128s nextvit_small efficientvit_m0 ghostnetv3_100
    repghostnet_050 shvit_s1 mobilenetv4_conv_small resnet18 regnety_002 vgg11_bn efficientformer_l1 convnext_atto
    hrnet_w18_small dla34 densenet121 tiny_vit_5m_224 inception_v3 tf_mobilenetv3_small_075 efficientnet_b0
    res2net50_26w_4s xception41 resnest14d skresnet18 mobilevit_s edgenext_xx_small swin_tiny_patch4_window7_224
    mobilenetv2_050 selecsls42b gernet_s cspresnet50 ese_vovnet19b_dw hardcorenas_a mnasnet_small fbnetc_100 lcnet_050
    rexnet_100 inception_next_tiny poolformer_s12 starnet_s1 dpn48b resnetv2_50d_evos
"""
"""Of timm: networks with linear regions, and others that are to be left alone."""

DETECTORS = ("rt_detr_backbone", "rt_detr_encoder", "d_fine_backbone", "d_fine_encoder")
"""Of transformers, with its default configurations."""


class Maps(nn.Module):
    """A part of a detector that answers with its feature maps alone."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: Tensor) -> list[Tensor]:
        return list(self.part(x).feature_maps)


class Encoder(nn.Module):
    """A detector's encoder of three maps, which one convolution each makes of the image."""

    def __init__(self, encoder: nn.Module, channels: int) -> None:
        super().__init__()
        self.stems = nn.ModuleList(nn.Conv2d(3, channels, stride, stride) for stride in (8, 16, 32))
        self.encoder = encoder

    def forward(self, x: Tensor) -> list[Tensor]:
        return list(self.encoder([stem(x) for stem in self.stems]).last_hidden_state)


def build_detector(name: str) -> nn.Module:
    """A part of RT-DETR (2304.08069) or D-FINE (2410.13842) as transformers builds it from its configuration."""
    tf = importlib.import_module("transformers")
    stages = ["stage2", "stage3", "stage4"]
    if name == "rt_detr_backbone":
        return Maps(tf.RTDetrResNetBackbone(tf.RTDetrResNetConfig(out_features=stages)))
    if name == "d_fine_backbone":
        return Maps(tf.HGNetV2Backbone(tf.HGNetV2Config(out_features=stages, use_learnable_affine_block=True)))
    kind, short = ("RTDetr", "rt_detr") if name == "rt_detr_encoder" else ("DFine", "d_fine")
    config = getattr(tf, f"{kind}Config")()
    part = importlib.import_module(f"transformers.models.{short}.modeling_{short}")
    return Encoder(getattr(part, f"{kind}HybridEncoder")(config), config.encoder_hidden_dim)


PLAN = Plan(rounds=40, seconds=12, warmup_seconds=0.5)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("results/region_survey.json"))
    parser.add_argument("--only", default="", help="networks whose name contains this")
    options = parser.parse_args()
    torch.set_num_threads(1)
    known: list[Folding] = read_result(options.output).records if options.output.is_file() else []
    records = {record.network: record for record in known}
    detectors = DETECTORS if importlib.util.find_spec("transformers") else ()
    for network in (*(f"timm/{n}" for n in NETWORKS.split()), *(f"transformers/{n}" for n in detectors)):
        if options.only in network and network not in records:
            records[network] = survey(network)
            print(to_json(records[network]), file=sys.stderr)
            write_result(options.output, result_of("folding", list(records.values())))
    return 0


def survey(network: str) -> Folding:
    """Fold one network; the record says what came of it."""
    torch.manual_seed(0)
    record = Folding(network=network, seconds=0.0)
    library, name = network.split("/")
    model = (build(network) if library == "timm" else randomised(build_detector(name))).double().eval()
    start = time.perf_counter()
    try:
        folded, report = zoo.deploy_with_report(model)
        record.seconds = round(time.perf_counter() - start, 1)
        record.params, record.relative_error = report.params, report.relative_error
        record.left = dict(Counter(report.left.values()))
        before, theirs, ours = map(counts, (model, reparameterize_model(model), folded))
        record.layers, record.norms = zip(before, theirs, ours, strict=True)
        time_both(record, model, folded)
    except (ValueError, *MISHAPS) as error:
        record.status, record.error = "failed", f"{type(error).__name__}: {error}"
    return record


def time_both(record: Folding, *structures: nn.Module) -> None:
    """Time a network as built and as folded, in turn."""
    networks = [copy.deepcopy(structure).float() for structure in structures]
    image = proof_input(networks[0])[:1]
    with torch.inference_mode():
        calls = {str(i): lambda network=network: network(image) for i, network in enumerate(networks)}
        samples = interleave(calls, PLAN).samples
    record.times = summarize(samples["0"]), summarize(samples["1"])
    record.speedup = paired_ratio(samples["0"], samples["1"])


def counts(model: nn.Module) -> tuple[int, int]:
    """Convolutions and fully connected layers, and BatchNorms."""
    layers = sum(isinstance(module, nn.Conv2d | nn.Linear) for module in model.modules())
    return layers, sum(isinstance(module, _BatchNorm) for module in model.modules())


if __name__ == "__main__":
    sys.exit(main())
