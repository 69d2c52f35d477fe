"""The layouts that we read and write. A rule is (native name, theirs); see `layouts.py`."""

from fnmatch import fnmatch

from zoo.checkpoints import acnet, cifar, orepa, yolov7
from zoo.checkpoints.layouts import Layout, Rules


def _renumbered(native: str, theirs: str, first: int, count: int, to: int = 0) -> Rules:
    """`native`.FIRST. and the following as `theirs`.TO. and the following."""
    return tuple((rf"^{native}\.{first + i}\.", f"{theirs}{to + i}.") for i in range(count))


# ---- RepVGG: DingXiaoH/RepVGG, repvgg.py and repvggplus.py; timm's byobnet ----

_RBR: Rules = (
    (r"\.conv\.branches\.kxk\.", ".rbr_dense."),
    (r"\.conv\.branches\.1x1\.", ".rbr_1x1."),
    (r"\.conv\.branches\.identity\.bn\.", ".rbr_identity."),
    (r"\.conv\.branches\.fused\.", ".rbr_reparam."),
    (r"^stem\.", "stage0."),
    (r"^head\.fc\.", "linear."),
)
_REPVGG: Rules = (
    *_RBR,
    *_renumbered("stages", "stage", 0, 4, to=1),
    (r"\.se\.fc1\.", ".se.down."),
    (r"\.se\.fc2\.", ".se.up."),
)
_QAREPVGG: Rules = (  # cxxgtxy/QARepVGG, repvgg.py; deployed, it is RepVGG's
    (r"\.conv\.branches\.bn_sum\.bn\.", ".bn."),
    (r"\.conv\.branches\.bn_sum\.sum\.kxk\.", ".rbr_dense."),
    (r"\.conv\.branches\.bn_sum\.sum\.1x1\.conv\.", ".rbr_1x1."),
    *_REPVGG,
)
# Stage 3 is in two halves, with an auxiliary head between them.
_REPVGGPLUS: Rules = (
    *_RBR,
    (r"\.se\.fc1\.", ".post_se.down."),
    (r"\.se\.fc2\.", ".post_se.up."),
    (r"^stages\.0\.", "stage1.blocks."),
    (r"^stages\.1\.", "stage2.blocks."),
    *_renumbered(r"stages\.2", "stage3_first.blocks.", 0, 12),
    *_renumbered(r"stages\.2", "stage3_second.blocks.", 12, 12),
    (r"^stages\.3\.", "stage4.blocks."),
    (r"^aux_heads\.(\d)\.0\.", r"aux_heads.\1.0.conv."),
    (r"^aux_heads\.(\d)\.1\.", r"aux_heads.\1.0.bn."),
    (r"^aux_heads\.(\d)\.3\.fc\.", r"aux_heads.\1.3."),
    (r"^aux_heads\.0\.", "stage1_aux."),
    (r"^aux_heads\.1\.", "stage2_aux."),
    (r"^aux_heads\.2\.", "stage3_first_aux."),
)
_REPVGG_TIMM: Rules = (
    (r"\.conv\.branches\.kxk\.", ".conv_kxk."),
    (r"\.conv\.branches\.1x1\.", ".conv_1x1."),
    (r"\.conv\.branches\.identity\.bn\.", ".identity."),
    (r"\.conv\.branches\.fused\.", ".reparam_conv."),
    (r"\.se\.", ".attn."),
)

# ---- MobileOne: apple/ml-mobileone; timm's byobnet ----


def _mobileone(kxk: str, pointwise: str, identity: str) -> Rules:
    """The branches by their names there; k parallel ones are kxk, kxk_2, … natively, and have numbers there."""
    return (
        (r"\.conv\.branches\.kxk\.", f".{kxk}.0."),
        *((rf"\.conv\.branches\.kxk_{i + 1}\.", f".{kxk}.{i}.") for i in range(1, 8)),
        (r"\.conv\.branches\.1x1\.", f".{pointwise}."),
        (r"\.conv\.branches\.identity\.bn\.", f".{identity}."),
        (r"\.conv\.branches\.fused\.", ".reparam_conv."),
    )


_MOBILEONE: Rules = (
    *_mobileone("rbr_conv", "rbr_scale", "rbr_skip"),
    (r"\.se\.fc1\.", ".se.reduce."),
    (r"\.se\.fc2\.", ".se.expand."),
    (r"^stem\.", "stage0."),
    *_renumbered("stages", "stage", 0, 4, to=1),
    (r"^head\.fc\.", "linear."),
)
_MOBILEONE_TIMM: Rules = (*_mobileone("conv_kxk", "conv_scale", "identity"), (r"\.se\.", ".attn."))

# ---- RepGhostNet: ChengpengChen/RepGhost; timm kept its names. A stage of ours is two there ----

_REPGHOST: Rules = (
    (r"\.cheap\.branches\.kxk\.conv\.", ".cheap_operation.0."),
    (r"\.cheap\.branches\.kxk\.bn\.", ".cheap_operation.1."),
    (r"\.cheap\.branches\.identity\.bn\.", ".fusion_bn.0."),
    (r"\.cheap\.branches\.fused\.", ".cheap_operation."),
    (r"\.primary\.conv\.", ".primary_conv.0."),
    (r"\.primary\.bn\.", ".primary_conv.1."),
    (r"\.downsample\.(conv|bn)\.", r".\1_dw."),
    (r"\.se\.fc1\.", ".se.conv_reduce."),
    (r"\.se\.fc2\.", ".se.conv_expand."),
    (r"\.shortcut\.depthwise\.conv\.", ".shortcut.0."),
    (r"\.shortcut\.depthwise\.bn\.", ".shortcut.1."),
    (r"\.shortcut\.pointwise\.conv\.", ".shortcut.2."),
    (r"\.shortcut\.pointwise\.bn\.", ".shortcut.3."),
    (r"^stem\.conv\.", "conv_stem."),
    (r"^stem\.bn\.", "bn1."),
    (r"^stem\.block\.", "blocks.0.0."),
    *((rf"^stages\.{stage}\.0\.", f"blocks.{2 * stage + 1}.0.") for stage in range(4)),
    *(rule for stage in range(4) for rule in _renumbered(rf"stages\.{stage}", f"blocks.{2 * stage + 2}.", 1, 5)),
    (r"^final\.conv\.", "blocks.9.0.conv."),
    (r"^final\.bn\.", "blocks.9.0.bn1."),
    (r"^head\.conv\.", "conv_head."),
    (r"^head\.fc\.", "classifier."),
)

# ---- ACNet and DBB: DingXiaoH/DiverseBranchBlock, its ResNets, MobileNet and AlexNet with either block or none ----

_DBB: Rules = (
    (r"\.branches\.kxk\.", ".dbb_origin."),
    (r"\.branches\.1x1\.", ".dbb_1x1."),
    (r"\.branches\.avg\.conv\.", ".dbb_avg.conv."),
    (r"\.branches\.avg\.bn_pad\.bn\.", ".dbb_avg.bn.bn."),
    (r"\.branches\.avg\.bn\.", ".dbb_avg.avgbn."),
    (r"(conv_dw)\.branches\.1x1_kxk\.conv1\.", r"\1.dbb_1x1_kxk.conv1."),  # wider inside: not I + W
    (r"\.branches\.1x1_kxk\.conv1\.", ".dbb_1x1_kxk.idconv1."),
    (r"\.branches\.1x1_kxk\.bn_pad\.bn\.", ".dbb_1x1_kxk.bn1.bn."),
    (r"\.branches\.1x1_kxk\.conv2\.", ".dbb_1x1_kxk.conv2."),
    (r"\.branches\.1x1_kxk\.bn\.", ".dbb_1x1_kxk.bn2."),
    (r"\.branches\.fused\.", ".dbb_reparam."),
)
_RESNET: Rules = (
    (r"^conv1\.", "stage0.conv1.conv."),
    (r"^bn1\.", "stage0.conv1.bn."),
    (r"^layer(\d)\.", r"stage\1."),
    (r"^(stage\d\.\d+\.conv\d)\.(weight|bias)$", r"\1.conv.\2"),
    (r"^(stage\d\.\d+)\.bn(\d)\.", r"\1.conv\2.bn."),
    (r"\.downsample\.0\.", ".shortcut.conv."),
    (r"\.downsample\.1\.", ".shortcut.bn."),
    (r"^fc\.", "linear."),
)
_MOBILENET: Rules = (
    (r"^conv_stem\.(weight|bias)$", r"conv1.conv.\1"),
    (r"^conv_stem\.", "conv1."),
    (r"^bn1\.", "conv1.bn."),
    *_renumbered(r"blocks\.0", "stem.", 0, 1),
    *_renumbered(r"blocks\.1", "stem.", 0, 2, to=1),
    *_renumbered(r"blocks\.2", "stem.", 0, 2, to=3),
    *_renumbered(r"blocks\.3", "stem.", 0, 6, to=5),
    *_renumbered(r"blocks\.4", "stem.", 0, 2, to=11),
    (r"\.conv_dw\.(weight|bias)$", r".depthwise.conv.\1"),
    (r"\.conv_dw\.", ".depthwise."),
    (r"^(stem\.\d+)\.bn1\.", r"\1.depthwise.bn."),
    (r"\.conv_pw\.", ".pointwise.conv."),
    (r"^(stem\.\d+)\.bn2\.", r"\1.pointwise.bn."),
    (r"^classifier\.", "linear."),
)
# alexnet.py there does not run for a misspelt pooling layer; with that put right, these are its names.
_ALEXNET: Rules = (
    (r"^stem\.(conv|bn)\.", r"stem.conv1.\1."),
    (r"^stages\.\d\.(conv\d)\.(bn\.|conv\.(?:weight|bias)$)", r"stem.\1.\2"),
    (r"^stages\.\d\.(conv\d)\.conv\.", r"stem.\1."),
    (r"^head\.hidden\.fc(\d)\.", r"linear\1."),
    (r"^head\.fc\.", "linear3."),
)

_BASIC: Rules = (*acnet.ACB, *acnet.IN_BASIC_RESNET, *_RESNET, *acnet.OF_BASIC_RESNET)
_BOTTLENECK: Rules = (*acnet.ACB, *acnet.IN_BOTTLENECK_RESNET, *_RESNET, *acnet.OF_BOTTLENECK_RESNET)
_ACNET_MOBILENET: Rules = (*acnet.ACB, *acnet.IN_MOBILENET, *_MOBILENET)

# ---- The plain networks of timm and torchvision, into the K×K branches: a warm start ----

_PLAIN_RESNET: Rules = (
    (r"\.conv(\d)\.branches\.kxk\.conv\.", r".conv\1."),
    (r"\.conv(\d)\.branches\.kxk\.bn\.", r".bn\1."),
)
_PLAIN_MOBILENET: Rules = (
    (r"(conv_stem|conv_dw)\.branches\.kxk\.conv\.", r"\1."),
    (r"(conv_stem|conv_dw)\.branches\.kxk\.bn\.", "bn1."),
)
# The convolutions that become blocks feed a concatenation, not a BatchNorm.
_PLAIN_DENSENET: Rules = ((r"\.conv2\.branches\.kxk\.conv\.", ".conv2."),)
_PLAIN_ALEXNET: Rules = (
    (r"\.conv\.branches\.kxk\.conv\.", ".conv."),
    (r"\.conv\.branches\.kxk\.bn\.", ".bn."),
)


def _plain(models: str, mark: str, rules: Rules) -> Layout:
    return Layout("plain", models, mark, (*rules, (r"\.branches\.", None)))


_IN_RESNET, _IN_MOBILENET = r"^stage0\.conv1\.conv\.weight$", r"^stem\.12\.pointwise\.conv\.weight$"
_IN_ALEXNET = r"^linear3\.weight$"
_IN_OREPA, _IN_OREPA_RESNET = r"\.rbr_(dense\.vector|reparam\.)", r"\.weight_orepa_origin$|\.orepa_reparam\.weight$"

QUANTISERS = "__nncf_hooks."
"""What the names of the ranges begin with that NNCF keeps in a network that is trained in int8."""
NATIVE = Layout("zoo", "*", "", (), elsewhere=f"^{QUANTISERS}")
LAYOUTS = (
    Layout("official", "repvgg_*", r"\.rbr_(dense|reparam)\.", _REPVGG),
    Layout("official", "qarepvgg_*", r"\.rbr_1x1\.weight$|\.rbr_reparam\.", _QAREPVGG),
    Layout("official", "repvggplus_*", r"\.blocks\.0\.rbr_(dense|reparam)\.", _REPVGGPLUS),
    Layout("timm", "repvgg_*", r"\.conv_kxk\.conv\.|\.reparam_conv\.", _REPVGG_TIMM),
    Layout("official", "mobileone_*", r"\.rbr_conv\.0\.|\.reparam_conv\.", _MOBILEONE),
    Layout("timm", "mobileone_*", r"\.conv_kxk\.0\.conv\.|\.reparam_conv\.", _MOBILEONE_TIMM),
    Layout("official", "repghostnet_*", r"\.ghost1\.primary_conv\.", _REPGHOST, keeps_norms=True),
    Layout("timm", "repghostnet_*", r"\.ghost1\.primary_conv\.", _REPGHOST, keeps_norms=True),
    # OREPA (JUGGHM/OREPA_CVPR2022): the networks' names are those of RepVGG and DBB.
    Layout("official", "orepa_repvgg_*", _IN_OREPA, (*orepa.IN_REPVGG, *_REPVGG)),
    Layout("official", "orepa_resnet*[48]", _IN_OREPA_RESNET, (*orepa.IN_BASIC_RESNET, *_RESNET)),
    Layout("official", "orepa_resnet*[01]", _IN_OREPA_RESNET, (*orepa.IN_BOTTLENECK_RESNET, *_RESNET)),
    Layout("official", "*resnet*[0148]", _IN_RESNET, (*_DBB, *_RESNET)),
    Layout("official", "*resnet*[0148]", _IN_RESNET, (*acnet.ACB, *_RESNET)),
    Layout("official", "*mobilenet_v1", _IN_MOBILENET, (*_DBB, *_MOBILENET)),
    Layout("official", "*mobilenet_v1", _IN_MOBILENET, (*acnet.ACB, *_MOBILENET)),
    Layout("official", "*alexnet", _IN_ALEXNET, (*_DBB, *_ALEXNET)),
    Layout("official", "*alexnet", _IN_ALEXNET, (*acnet.ACB, *_ALEXNET)),
    # ACNet's own repository; its deployed files leave the BatchNorms outside blocks as they are.
    Layout("official", "*resnet[13][48]", r"^conv1\.bn\.weight$", _BASIC, keeps_norms=True),
    Layout("official", "*resnet[15]0*", r"^stage1\.block0\.", _BOTTLENECK, keeps_norms=True),
    Layout("official", "*mobilenet_v1", r"^conv1\.acb\.", _ACNET_MOBILENET, keeps_norms=True),
    _plain("*resnet*[0148]", r"^layer1\.0\.conv1\.weight$", _PLAIN_RESNET),
    _plain("*mobilenet_v1", r"^blocks\.0\.0\.conv_dw\.weight$", _PLAIN_MOBILENET),
    _plain("*densenet*", r"^features\.denseblock1\.denselayer1\.conv2\.weight$", _PLAIN_DENSENET),
    _plain("*alexnet", r"\.conv2\.conv\.weight$", _PLAIN_ALEXNET),
    *yolov7.LAYOUTS,
    *cifar.LAYOUTS,
)


def layouts_of(model: str) -> list[Layout]:
    """The layouts of others for a registered name."""
    return [layout for layout in LAYOUTS if fnmatch(model, layout.models)]
