"""Networks of others, of timm and from papers: folded exactly, and to no more layers than their own converters do."""

from pathlib import Path

import pytest
import timm
import torch
from timm.utils.model import reparameterize_model
from torch import nn

import zoo
from tests.support.blocks import randomise
from tests.support.paper_networks import NETWORKS
from zoo.results.files import read_result

SURVEY = read_result(Path(__file__).resolve().parents[2] / "results" / "region_survey.json").records
SURVEYED = [record.network.removeprefix("timm/") for record in SURVEY if record.network.startswith("timm/")]
# Those that timm converts, each in another way, and of the others those that add, scale, slice or pad otherwise.
TIMM = (
    "repvit_m0_9",
    "fastvit_t8",
    "mobileone_s1",
    "levit_128s",
    "nextvit_small",
    "efficientvit_m0",
    "ghostnetv3_100",
    "repghostnet_050",
    "regnety_002",
    "convnext_atto",
    "tf_mobilenetv3_small_075",
    "res2net50_26w_4s",
    "resnest14d",
    "inception_next_tiny",
    "poolformer_s12",
    "starnet_s1",
    "shvit_s1",
    "efficientformer_l1",
    "tiny_vit_5m_224",
    "mobilevit_s",
    "hrnet_w18_small",
    "dla34",
    "inception_v3",
    "skresnet18",
    "dpn48b",
)
SIZES = {"levit_128s": 224, "efficientformer_l1": 224, "inception_v3": 96}
"""Pixels of those that do not run on 64."""


def kept(model: nn.Module) -> tuple[int, int]:
    """Convolutions and fully connected layers, and BatchNorms."""
    norms = sum(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())
    return sum(isinstance(m, nn.Conv2d | nn.Linear) for m in model.modules()), norms


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_of_a_paper_is_folded_as_far_as_by_its_authors(name):
    build, theirs = NETWORKS[name]
    torch.manual_seed(0)
    model = randomise(build()).double().eval()
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    deployed, report = zoo.deploy_with_report(model, images)
    layers, norms = kept(deployed)
    assert layers <= theirs[0] and norms <= theirs[1]
    assert report.relative_error <= 1e-9
    assert report.params[1] < report.params[0] and report.macs[1] < report.macs[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", TIMM)
def test_no_more_layers_are_left_than_by_the_authors_own_converter(name):
    torch.manual_seed(0)
    model = randomise(timm.create_model(name)).double().eval()
    size = SIZES.get(name, 64)
    deployed, report = zoo.deploy_with_report(model, torch.randn(1, 3, size, size, dtype=torch.float64))
    assert name in SURVEYED
    theirs = kept(reparameterize_model(model))
    ours = kept(deployed)
    assert ours[0] <= theirs[0] and ours[1] <= theirs[1]
    assert report.relative_error <= 1e-9
    assert report.params[1] <= report.params[0] * 1.001 and report.macs[1] <= report.macs[0]
