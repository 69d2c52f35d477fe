"""Convert other people's networks, take one training step, deploy with proof: what works, what is refused and why.

    python tools/convert_survey.py --output results/convert_survey.json

Every network is built with random weights and randomised BatchNorm statistics. For each of ACB, DBB and RepVGG:
`zoo.convert`, one step of SGD on random images (every parameter that has a gradient in the plain network or is new
must have one), `zoo.deploy` with its proof, and the deployed network must have the plain one's parameter names and
shapes, biases apart. The results are written after every network; a second run goes on where the first stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import zoo
from zoo.results.files import read_result, result_of, to_json, write_result
from zoo.results.surveys import Conversion
from zoo.surgery.convert import convert_with_report

BLOCKS = ("acb", "dbb", "repvgg")
MISHAPS = (RuntimeError, AssertionError, AttributeError, TypeError)
"""What a bug raises, here or there: it belongs in the table."""

TIMM = """
    resnet10t resnet18 resnext26ts skresnet18 legacy_seresnet18 resnest14d resnetblur18
    resnetv2_18 resnetv2_50x1_bit nf_regnet_b0 nf_ecaresnet26 regnetx_002 regnety_002 regnetz_005 gernet_s
    densenet121 vgg11_bn mobilenetv1_100 mobilenetv2_035 mobilenetv3_small_050 mobilenetv4_conv_small_035
    mobilenet_edgetpu_v2_xs efficientnet_b0 efficientnet_lite0 tf_efficientnet_lite0 tf_efficientnetv2_b0
    efficientnet_cc_b0_4e mnasnet_small semnasnet_075 spnasnet_100 mixnet_s tinynet_e lcnet_035 ghostnet_050
    ghostnetv3_050 repghostnet_050 repvgg_a0 mobileone_s0 repvit_m0_9 fastvit_t8 hrnet_w18_small dla34 dla46x_c
    res2net50_14w_8s cspresnet50 cs3darknet_s darknet17 legacy_xception inception_v3@96 dpn48b convnext_atto
    convnextv2_atto convmixer_768_32 edgenext_xx_small mobilevit_xxs mobilevitv2_050 efficientvit_b0
    efficientformerv2_s0@224 poolformer_s12 ese_vovnet19b_slim_dw rexnet_100 hgnetv2_b0 visformer_tiny@224 pvt_v2_b0
    starnet_s1 inception_next_atto shvit_s1 swiftformer_xs fasternet_t0 mambaout_femto vit_tiny_patch16_224@224
"""
"""Small members of distinct families, `name@pixels` where 64 pixels do not do."""

TORCHVISION = """
    alexnet vgg11_bn resnet18 resnext50_32x4d squeezenet1_1 densenet121 inception_v3@299 googlenet shufflenet_v2_x0_5
    mobilenet_v2 mobilenet_v3_small mobilenet_v3_large mnasnet0_5 efficientnet_b0 efficientnet_v2_s regnet_x_400mf
    regnet_y_400mf convnext_tiny swin_t lraspp_mobilenet_v3_large deeplabv3_mobilenet_v3_large
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("results/convert_survey.json"))
    parser.add_argument("--only", default="", help="networks whose name contains this")
    options = parser.parse_args()
    known: list[Conversion] = read_result(options.output).records if options.output.is_file() else []
    listed = {network for network, _ in networks()}
    records = {(record.network, record.block): record for record in known if record.network in listed}
    for network, size in networks():
        wanted = [block for block in BLOCKS if (network, block) not in records]
        if options.only in network and wanted:
            for block in wanted:
                records[network, block] = survey(network, size, block)
                print(to_json(records[network, block]), file=sys.stderr)
            write_result(options.output, result_of("conversion", list(records.values())))
    print(json.dumps(summary(list(records.values()))))
    return 0


def networks() -> list[tuple[str, int]]:
    """[(library/name, image size)]"""
    entries = [f"timm/{entry}" for entry in TIMM.split()] + [f"torchvision/{entry}" for entry in TORCHVISION.split()]
    split = [entry.partition("@") for entry in entries]
    return [(name, int(size or 64)) for name, _, size in split]


def survey(network: str, size: int, block: str) -> Conversion:
    """Convert, train one step and deploy one network; the record says what happened, or why not."""
    torch.manual_seed(0)
    record = Conversion(network=network, block=block, img_size=size, seconds=0.0)
    start = time.perf_counter()
    images = torch.randn(2, 3, size, size)
    plain = build(network)
    try:
        model, report = convert_with_report(plain, block, example=images)
        record.replaced, record.left = len(report.replaced), reasons(report.left)
        record.without_gradient = sorted(step(model, images) - step(plain, images))
        deployed, proof = zoo.deploy_with_report(model.eval(), images)
        record.block_error = max(item.relative_error or 0.0 for item in proof.blocks)
        record.relative_error, record.noise_floor = proof.relative_error, proof.noise_floor
        record.params, record.own_layout = proof.params, has_layout(deployed, plain)
    except ValueError as error:
        record.status, record.error = "refused", str(error)
    except MISHAPS as error:
        record.status, record.error = "failed", f"{type(error).__name__}: {error}"
    record.seconds = round(time.perf_counter() - start, 1)
    return record


def build(network: str) -> nn.Module:
    """A network with random weights, its BatchNorm statistics randomised: fresh ones hide mistakes."""
    library, name = network.split("/")
    if library == "timm":
        model = timm.create_model(name, num_classes=10)
    else:
        dense = any(part in name for part in ("lraspp", "deeplabv3", "fcn"))
        extra = {"weights_backbone": None} if dense else {}
        extra |= {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
        model = torchvision.models.get_model(name, weights=None, num_classes=10, **extra)
    return randomised(model)


def randomised(model: nn.Module) -> nn.Module:
    """The network with other BatchNorm statistics and parameters than fresh ones."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            if module.running_mean is not None and module.running_var is not None:
                nn.init.normal_(module.running_mean, 0, 0.1)
                nn.init.uniform_(module.running_var, 0.5, 1.5)
            if module.weight is not None:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.1)
    return model


def step(model: nn.Module, images: Tensor) -> set[str]:
    """One step of SGD; the names of parameters without gradient."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    outputs = tree_leaves(model(images))
    loss = torch.stack([output.float().square().mean() for output in outputs if isinstance(output, Tensor)]).sum()
    loss.backward()
    missing = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # random networks answer with numbers of any size
    optimizer.step()
    return missing


def has_layout(deployed: nn.Module, plain: nn.Module) -> bool:
    """Whether all names and shapes are the plain network's own, but for biases where BatchNorm was folded in."""
    own = {name: tensor.shape for name, tensor in plain.state_dict().items()}
    return all(own.get(n) == t.shape for n, t in deployed.state_dict().items() if n in own or not n.endswith(".bias"))


def reasons(left: list[Any]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for item in left:
        counts[item.reason] = counts.get(item.reason, 0) + 1
    return counts


def summary(records: list[Conversion]) -> dict[str, Any]:
    """Counts over all records, and the worst errors."""
    outcomes = ["converted" if record.status == "ok" else record.status for record in records]
    converted = [record for record in records if record.status == "ok"]
    return {
        "networks": len({record.network for record in records}),
        **{outcome: outcomes.count(outcome) for outcome in ("converted", "refused", "failed")},
        "worst_block_error": max((record.block_error or 0.0 for record in converted), default=None),
        "without_gradient": sum(bool(record.without_gradient) for record in converted),
        "other_layout": sum(not record.own_layout for record in converted),
    }


if __name__ == "__main__":
    sys.exit(main())
