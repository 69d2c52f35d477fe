"""YOLOv7: RepConv, the backbone's layers, the neck, scaling, and what all of it costs."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import zoo
from tests.support.catalog import costs
from zoo.models.yolov7 import ELAN, RepConv
from zoo.models.yolov7_neck import SPP, SPP3, YOLOv7Neck
from zoo.reparam.block import MultiBranchConv2d

create: Callable[..., Any] = zoo.create_model  # networks have attributes of their own


def block_sets(network: nn.Module) -> set[str]:
    return {"+".join(m.branches) for m in network.modules() if isinstance(m, MultiBranchConv2d)}


def test_repconv_has_yolov7s_arguments():
    unit = RepConv(8, 8, 3, 1, 2)
    assert list(unit.conv.branches) == ["kxk", "1x1", "identity"] and unit.conv.spec.groups == 2
    assert list(RepConv(8, 16).conv.branches) == list(RepConv(8, 8, s=2).conv.branches) == ["kxk", "1x1"]
    x = torch.randn(2, 8, 6, 6)
    unit.eval()
    torch.testing.assert_close(unit(x), nn.functional.silu(unit.conv.fuse()(x)), rtol=1e-4, atol=1e-5)


def test_planned_reparameterization_has_no_identity_where_outputs_are_concatenated():
    network = zoo.create_model("yolov7_backbone_rep", device="meta")
    for module in network.modules():
        if isinstance(module, ELAN):
            assert block_sets(module) == {"kxk", "kxk+1x1"}
    assert "identity" in network.stem.conv3.conv.branches
    other = zoo.create_model("yolov7_backbone", block="kxk*2+bare_identity", device="meta")
    assert block_sets(other.stages[0].elan) == {"kxk", "kxk+kxk_2"}
    assert "bare_identity" in other.stem.conv3.conv.branches
    plain = zoo.create_model("yolov7_backbone", device="meta")
    assert block_sets(plain) == {"kxk"}
    assert {m.eps for m in plain.modules() if isinstance(m, nn.BatchNorm2d)} == {1e-3}


def test_yolov7s_backbone_has_the_official_layers_in_order():
    """Channels of the 1x1, 3x3 and strided convolutions of layers 0 to 50 of cfg/training/yolov7.yaml, in order."""
    network = zoo.create_model("yolov7_backbone", device="meta")
    order = []
    for _, module in network.named_modules():
        if isinstance(module, MultiBranchConv2d):
            module.register_forward_hook(
                lambda m, args, output: order.append((m.spec.out_channels, m.spec.kernel_size[0], m.spec.stride[0]))
            )
    network(torch.empty(2, 3, 64, 64, device="meta"))
    elan = [(h, 1, 1) for h in (0, 0)] + [(0, 3, 1)] * 4
    expected = [(32, 3, 1), (64, 3, 2), (64, 3, 1), (128, 3, 2)]
    for hidden, width, half in ((64, 256, 128), (128, 512, 256), (256, 1024, 512), (256, 1024, None)):
        expected += [(hidden, k, s) for _, k, s in elan] + [(width, 1, 1)]
        if half:
            expected += [(half, 1, 1), (half, 3, 2), (half, 1, 1)]
    assert order == expected


@pytest.mark.parametrize("name, params, gflops", [("yolov7", 36.9, 104.7), ("yolov7x", 71.3, 189.9)])
def test_yolov7_and_its_detection_layer_cost_what_the_paper_says(name, params, gflops):
    """Table 1 of the paper, at 640 pixels: less our classifier, plus a 1x1 to 3 · 85 numbers on each map."""
    (_, deployed), (_, macs) = costs(name)
    widths = zoo.create_model(name, features_only=True, device="meta").feature_info.channels()
    classifier = 1001 * sum(widths)
    detection = sum(255 * width for width in widths)
    places = sum(255 * width * (640 // stride) ** 2 for width, stride in zip(widths, (8, 16, 32), strict=True))
    assert round((deployed - classifier + detection) / 1e6, 1) == params
    assert 2 * (macs - classifier + places) / 1e9 == pytest.approx(gflops, rel=5e-3)


def test_a_deeper_yolov7_widens_outside_its_stacks_as_much_as_it_concatenates_more():
    plain, deeper = (create("yolov7_backbone", depth_multiplier=depth, device="meta") for depth in (1, 1.5))
    assert [info["num_chs"] for info in deeper.feature_info] == [80, 320, 640, 1280, 1280]
    for stage, other in zip(plain.stages, deeper.stages, strict=True):
        inputs = stage.elan.join.conv.spec.in_channels, other.elan.join.conv.spec.in_channels
        assert inputs[1] / inputs[0] == 1.25
        assert [len(network.elan.steps) for network in (stage, other)] == [2, 3]
    narrow = create("yolov7_backbone", width_multiplier=0.3, device="meta")
    assert [info["num_chs"] for info in narrow.feature_info] == [24, 80, 160, 312, 312]
    for wrong in ({"depth_multiplier": 0.2}, {"width_multiplier": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            create("yolov7_backbone", device="meta", **wrong)


def test_yolov7s_neck_takes_and_returns_three_maps_of_any_size():
    neck = YOLOv7Neck((16, 32, 64), width_multiplier=0.125, device="meta")
    assert [list(head.conv.branches) for head in neck.heads] == [["kxk", "1x1"]] * 3
    for height, width in ((8, 12), (7, 9)):
        sizes = [(-(-height // stride), -(-width // stride)) for stride in (1, 2, 4)]
        maps = [torch.empty(2, c, *size, device="meta") for c, size in zip((16, 32, 64), sizes, strict=True)]
        assert [tuple(m.shape) for m in neck(maps)] == [
            (2, c, *size) for c, size in zip(neck.channels, sizes, strict=True)
        ]


def test_spp_pools_maxima_over_5_9_and_13_pixels():
    spp = SPP(8, 6).eval()
    x = spp.reduce(torch.randn(2, 8, 15, 14))
    pooled = [nn.functional.max_pool2d(x, size, 1, size // 2) for size in (5, 9, 13)]
    assert torch.equal(spp.pyramid(x), torch.cat([x, *pooled], 1))
    assert spp(torch.randn(2, 8, 15, 14)).shape == (2, 6, 15, 14)


def test_spp3_pools_means_over_5_9_and_13_pixels():
    pooled = SPP3(2, 6).pyramid(torch.ones(1, 1, 15, 14))
    corners = [float(m[0, 0]) for m in pooled[0]]  # an odd side of k pixels keeps (k + 1) / 2 of them inside
    assert corners == pytest.approx([1, 9 / 25, 25 / 81, 49 / 169])
    assert [float(m[7, 7]) for m in pooled[0]] == pytest.approx([1, 1, 1, 1])
    assert SPP3(8, 6).eval()(torch.randn(2, 8, 15, 14)).shape == (2, 6, 15, 14)
