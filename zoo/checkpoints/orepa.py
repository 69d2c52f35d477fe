"""What the official OREPA (JUGGHM/OREPA_CVPR2022) calls the tensors of its blocks; `tables.py` makes layouts of it."""

from zoo.checkpoints.layouts import Rules

_KERNEL = r"\.branches\.orepa\.conv\.kernel\."
_WEIGHTS = {
    "weight": "origin",
    "average_1x1": "avg_conv",
    "average": "avg_avg",
    "frequency_1x1": "pfir_conv",
    "frequency": "prior",
    "mixing": "1x1_kxk_idconv1",
    "mixed_kxk": "1x1_kxk_conv2",
    "pointwise": "1x1",
    "depthwise": "gconv_dw",
    "separable": "gconv_pw",
}


def _kernel(prefix: str) -> Rules:
    """The tensors of a block, most of them named `prefix` and a word."""
    return (
        *((rf"{_KERNEL}{ours}$", f".{prefix}_{theirs}") for ours, theirs in _WEIGHTS.items()),
        (rf"{_KERNEL}identity$", ".id_tensor"),
        (rf"{_KERNEL}scale$", ".vector"),
        (r"\.branches\.orepa\.bn\.", ".bn."),
    )


IN_REPVGG: Rules = tuple((rf"\.conv{ours}", f".rbr_dense{theirs}") for ours, theirs in _kernel("weight_rbr"))

_IN_RESNET: Rules = (
    (rf"^conv1{_KERNEL}(\d)\.", r"stage0.conv1.weight\1.branches.orepa.conv.kernel."),
    (r"^conv1\.branches\.fused\.", "stage0.conv1.or_large_reparam."),
    (r"^conv1\.branches\.", "stage0.conv1.branches."),
    (r"\.downsample\.0\.branches\.", ".shortcut.branches."),
    (rf"{_KERNEL}first$", ".weight_or1x1_l2i_conv1"),
    (rf"{_KERNEL}second$", ".weight_or1x1_l2i_conv2"),
    *_kernel("weight_orepa"),
    (r"\.conv2\.branches\.fused\.", ".conv2.orepa_reparam."),
)
IN_BASIC_RESNET: Rules = (*_IN_RESNET, (r"\.branches\.fused\.", ".orepa_reparam."))
IN_BOTTLENECK_RESNET: Rules = (
    (rf"\.(conv[13]|downsample\.0){_KERNEL}weight$", r".\1.weight_or1x1_origin"),
    (r"\.downsample\.0\.weight_", ".shortcut.weight_"),
    *_IN_RESNET,
    (r"\.branches\.fused\.", ".or1x1_reparam."),
)
