"""Bugs and limits of other implementations, one test each: what fails there must hold here."""

import copy
from typing import Any

import pytest
import torch
from timm.layers import convert_sync_batchnorm
from timm.utils import ModelEmaV3, freeze, reparameterize_model
from torch import nn

import zoo
from tests.support.blocks import fill_convs, randomise
from zoo.compare import relative_error
from zoo.models.yolov7 import RepConv
from zoo.reparam.block import MultiBranchConv2d
from zoo.reparam.branches import build_block
from zoo.reparam.spec import ConvSpec
from zoo.surgery.verify import prove_block

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
NETWORKS = ["repvgg_tiny", "repghostnet_0.5x", "mobileone_s1", "dbb_mobilenet_v1"]


def network(name: str, **kwargs) -> Any:
    return randomise(zoo.create_model(name, **kwargs)).eval()


def spec(in_channels=4, out_channels=4, kernel=3, **geometry) -> ConvSpec:
    if "padding" not in geometry:
        kernel_size = kernel if isinstance(kernel, tuple) else (kernel, kernel)
        geometry["padding"] = (kernel_size[0] // 2, kernel_size[1] // 2)
    return ConvSpec(in_channels=in_channels, out_channels=out_channels, kernel_size=kernel, **geometry)


def proven(block: MultiBranchConv2d) -> float:
    return prove_block(fill_convs(randomise(block)).eval())


# ---- timm


def test_deployed_weights_load_strictly_into_a_network_built_deployed():
    """byobnet: no way to build a deployed RepVGG; its blocks' deployed convolutions have no padding."""
    deployed = zoo.deploy(network("repvgg_tiny"), IMAGES, verify=False)
    built = zoo.create_model("repvgg_tiny", deploy=True).eval()
    built.load_state_dict(deployed.state_dict(), strict=True)
    assert torch.equal(built(IMAGES), deployed(IMAGES))


@pytest.mark.parametrize("name", ["repvgg_tiny", "repghostnet_0.5x", "dbb_mobilenet_v1"])
def test_syncbn_deploys(name):
    """timm, RepVGG, RepGhost and MobileOne: bare AssertionError."""
    model = network(name)
    expected = model(IMAGES)
    # torch's own converter drops the activation of timm's BatchNormAct2d, which dbb_mobilenet_v1 has.
    convert = convert_sync_batchnorm if "mobilenet" in name else nn.SyncBatchNorm.convert_sync_batchnorm
    deployed = zoo.deploy(convert(model).eval(), IMAGES, verify=False)
    assert zoo.is_deployed(deployed)
    assert relative_error(deployed(IMAGES), expected) < 1e-4


@pytest.mark.parametrize("name", ["repvgg_tiny", "repghostnet_0.5x", "dbb_mobilenet_v1"])
def test_frozen_batchnorm_deploys(name):
    model = network(name)
    expected = model(IMAGES)
    freeze(model)
    assert relative_error(zoo.deploy(model, IMAGES, verify=False)(IMAGES), expected) < 1e-4


def test_no_batchnorm_survives_in_a_deployed_repghostnet():
    """timm and the official code leave 48 of 112."""
    deployed = zoo.deploy(network("repghostnet_0.5x", device="meta"))
    assert not [m for m in deployed.modules() if isinstance(m, nn.BatchNorm2d)]


def test_a_repghostnet_without_branches_deploys():
    """The official switch_to_deploy returns early, so its deployed file does not load."""
    deployed = zoo.deploy(network("repghostnet_norep_0.5x", device="meta"))
    names = {name for name, _ in deployed.named_parameters()}
    assert {name for name in names if ".ghost1.cheap." in name and name.startswith("stem")} == {
        "stem.block.ghost1.cheap.weight",
        "stem.block.ghost1.cheap.bias",
    }


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@pytest.mark.parametrize("deploy", [False, True])
def test_a_repghostnet_scripts_in_both_structures(deploy):
    """timm's deployed RepGhostNet keeps a Python list, which torch.jit.script refuses."""
    model = network("repghostnet_0.5x", deploy=deploy)
    assert relative_error(torch.jit.script(model)(IMAGES), model(IMAGES)) < 1e-5


def test_repghosts_features_are_the_last_maps_of_their_stride():
    """timm taps the strided first block of each stage."""
    model = network("repghostnet_1.0x", device="meta")
    assert [info["num_chs"] for info in model.feature_info] == [16, 24, 40, 112, 160]


@pytest.mark.parametrize("block", ["repvgg", "acb", "dbb", "kxk*4+1x1+identity", "repghost", "kxk+avg+asym"])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_dilation_is_honoured_by_every_branch(block, groups):
    """timm's MobileOne ignores it, the official RepVGG and MobileOne have it in the deployed convolution only."""
    made = build_block(spec(padding=(2, 2), dilation=(2, 2), groups=groups), block)
    assert proven(made) < 1e-9
    assert made(torch.randn(2, 4, 16, 16)).shape[-2:] == (16, 16)


@pytest.mark.parametrize("name", ["repvgg_a0", "repghostnet_0.5x", "mobileone_s1"])
def test_output_stride_dilates_in_training_structure_and_deployed(name):
    model = zoo.create_model(name, output_stride=8, device="meta").eval()
    dilated = [m for m in model.modules() if isinstance(m, MultiBranchConv2d) and m.spec.dilation != (1, 1)]
    deployed = [m for m in zoo.deploy(model).modules() if isinstance(m, nn.Conv2d) and m.dilation != (1, 1)]
    assert dilated and len(dilated) <= len(deployed)
    for block in dilated:
        wide = [m for m in block.modules() if isinstance(m, nn.Conv2d) and m.kernel_size != (1, 1)]
        assert all(m.dilation == block.spec.dilation for m in wide)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_network_cast_before_deploying_keeps_its_dtype(dtype):
    """RepViT, RepVGG, RepConv: float32 biases or kernels in a half network."""
    deployed = zoo.deploy(network("repvgg_tiny").to(dtype), IMAGES.to(dtype), verify=False)
    assert {p.dtype for p in deployed.parameters()} == {dtype}
    assert deployed(IMAGES.to(dtype)).isfinite().all()


@pytest.mark.parametrize("block", ["repvgg", "acb", "dbb", "kxk*4+1x1+identity"])
def test_no_tensor_hides_outside_the_state_dict(block):
    """timm's id_tensor: of the wrong dtype after .double(), never freed."""
    made = build_block(spec(), block).eval()
    made.fuse()
    known = {id(t) for t in [*made.parameters(), *made.buffers()]}
    for module in made.modules():
        assert not [k for k, v in vars(module).items() if isinstance(v, torch.Tensor) and id(v) not in known]
    assert made.double().fuse().weight.dtype == torch.float64
    assert made(torch.randn(1, 4, 8, 8, dtype=torch.float64)).dtype == torch.float64


def test_batchnorm_without_affine_parameters_folds():
    """timm: None / Tensor."""
    made = build_block(spec(), "repvgg")
    for branch in made.branches.values():
        branch.bn = nn.BatchNorm2d(4, affine=False)
    assert proven(made) < 1e-9


def test_deploying_in_training_mode_is_refused():
    """timm folds silently with statistics that are still changing."""
    with pytest.raises(ValueError, match="training mode"):
        zoo.deploy(zoo.create_model("repghostnet_0.5x").train())


def test_first_conv_names_a_layer_that_exists_after_deploying():
    for name in ("mobileone_s1", "dbb_mobilenet_v1"):
        deployed = zoo.create_model(name, deploy=True, device="meta")
        assert deployed.get_submodule(deployed.pretrained_cfg["first_conv"]).in_channels == 3


def test_timms_reparameterize_model_converts_ours_and_the_root_deploys():
    """timm never converts the root module itself; a fuse() that returns None removes a layer."""
    model = network("mobileone_s1")
    assert zoo.is_deployed(reparameterize_model(model))
    root = randomise(build_block(spec(), "repvgg")).eval()
    assert type(zoo.deploy(root, torch.randn(1, 4, 8, 8))) is nn.Conv2d


def test_deploying_leaves_a_live_ema_alone():
    """In-place conversion breaks the next ModelEmaV3.update."""
    model = zoo.create_model("repvgg_tiny")
    ema = ModelEmaV3(model)
    zoo.deploy(model.eval(), verify=False)
    ema.update(model.train())


def test_a_fused_norm_activation_keeps_its_activation():
    """torch's fuse_conv_bn_eval with Identity for timm's BatchNormAct2d drops the ReLU."""
    model = network("dbb_mobilenet_v1")
    deployed = zoo.deploy(model, IMAGES, verify=False)
    assert sum(isinstance(m, nn.ReLU) for m in deployed.modules()) == 27
    assert relative_error(deployed(IMAGES), model(IMAGES)) < 1e-4


# ---- The official repositories


def test_acnets_networks_build_with_their_relu():
    """DingXiaoH/ACNet and DiverseBranchBlock cannot build an ACB-ResNet at HEAD."""
    model = zoo.create_model("acnet_resnet18", device="meta")
    assert sum(isinstance(m, nn.ReLU) for m in model.modules()) == 17


@pytest.mark.parametrize("kernel", [2, 4, (3, 1), (1, 3), (3, 5), (2, 3)])
@pytest.mark.parametrize("block", ["acb", "dbb", "repvgg", "kxk+avg"])
def test_even_and_rectangular_kernels_fold(block, kernel):
    """ACBlock and DBB crash."""
    assert proven(build_block(spec(kernel=kernel), block)) < 1e-9


@pytest.mark.parametrize("padding", [(0, 0), (1, 1), (3, 3), (0, 2)])
@pytest.mark.parametrize("block", ["acb", "dbb", "repvgg"])
def test_any_padding_folds(block, padding):
    """DBB asserts padding = K // 2."""
    assert proven(build_block(spec(kernel=5, padding=padding), block)) < 1e-9


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize("block", ["acb", "dbb", "repvgg"])
def test_padding_modes_are_honoured_while_training(block, mode):
    """RepVGG uses them only when deployed; mmpretrain drops them."""
    made = fill_convs(randomise(build_block(spec(padding_mode=mode), block))).eval()
    x = torch.randn(2, 4, 8, 8)
    with torch.no_grad():
        assert relative_error(made.fuse()(x), made(x)) < 1e-5
        zeros = copy.deepcopy(made.fuse())
        zeros.padding_mode = "zeros"
        assert relative_error(zeros(x), made(x)) > 1e-2


@pytest.mark.parametrize("block", ["dbb", "acb", "repvgg"])
@pytest.mark.parametrize("channels, groups", [((8, 4), 4), ((4, 8), 4), ((8, 4), 2)])
def test_groups_with_unequal_channels_fold(block, channels, groups):
    """DBB crashes for groups = out < in, and takes a depth multiplier for a dense convolution."""
    made = build_block(spec(*channels, groups=groups), block)
    assert proven(made) < 1e-9
    assert made(torch.randn(2, channels[0], 8, 8)).shape[1] == channels[1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_dbb_runs_in_half_precision(dtype):
    """IdentityBasedConv1x1's identity stays float32."""
    made = build_block(spec(), "dbb").to(dtype).eval()
    assert made(torch.randn(1, 4, 8, 8, dtype=dtype)).dtype == dtype


@pytest.mark.parametrize("name", ["dbb_mobilenet_v1", "acnet_mobilenet_v1"])
def test_networks_of_blocks_trace_with_fx(name):
    """DBB's BNAndPadLayer assigns to slices."""
    model = network(name)
    assert relative_error(torch.fx.symbolic_trace(model)(IMAGES), model(IMAGES)) < 1e-5


@pytest.mark.parametrize("name", NETWORKS)
def test_deploying_twice_is_harmless(name):
    """ACBlock, DBB's ConvBN and OREPA crash."""
    once = zoo.create_model(name, deploy=True, device="meta").eval()
    assert zoo.deploy(once).state_dict().keys() == once.state_dict().keys()


def test_a_stride_given_as_a_pair_keeps_the_identity_branch():
    """RepVGG drops it silently for stride=(1, 1)."""
    assert "identity" in build_block(spec(stride=(1, 1)), "repvgg").branches


@pytest.mark.parametrize("kernel", [1, 5, 7])
def test_repvggs_block_takes_any_kernel_size(kernel):
    """RepVGG asserts K = 3, timm's RepGhost module pads for 3 only."""
    for block in ("repvgg", "repghost"):
        assert proven(build_block(spec(kernel=kernel, groups=4), block)) < 1e-9


def test_a_missing_checkpoint_is_an_error():
    """RepGhost's convert.py exits 0 and saves converted random weights."""
    with pytest.raises(zoo.CheckpointError, match=r"nowhere\.pth"):
        zoo.create_model("repghostnet_0.5x", checkpoint="nowhere.pth")


@pytest.mark.parametrize("channels, groups", [(4, 1), (4, 2), (4, 4), (1, 1)])
def test_grouped_repconv_with_identity_folds_exactly(channels, groups):
    """yolov7's fuse_repvgg_block is wrong for groups 2 and 4 (error 0.5), and crashes for depthwise and one channel."""
    unit = RepConv(channels, channels, g=groups)
    assert "identity" in unit.conv.branches
    assert proven(unit.conv) < 1e-9
