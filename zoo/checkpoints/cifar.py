"""The layouts of ACNet's own repository (DingXiaoH/ACNet) for CIFAR's networks, plain and with ACB."""

import re
from collections.abc import Iterator

from zoo.checkpoints import acnet
from zoo.checkpoints.layouts import Layout, Rules

_PLAIN: Rules = ((r"(\.conv)?\.branches\.kxk\.", "."), (r"(\.conv)?\.branches\.fused\.", ".conv."))
_ACB: Rules = ((r"\.conv\.branches\.", ".acb.branches."), *acnet.ACB)
_STAGES: Rules = tuple((rf"^stages\.{index}\.", f"stage{index + 1}.") for index in range(3))
# Where the units of VGG-16 stand, pooling layers counted, in the order of their numbers there.
_UNITS = [f"stem.{i}" for i in (0, 1)] + [f"stages.0.{i}" for i in (1, 2)]
_UNITS += [f"stages.{stage}.{i}" for stage in (1, 2, 3) for i in (1, 2, 3)]


def _layouts(models: str, mark: str, *rules: tuple[str, str]) -> Iterator[Layout]:
    for blocks in (_PLAIN, _ACB):
        yield Layout("official", models, mark, (*blocks, *rules), keeps_norms=True)


LAYOUTS = (
    *_layouts(
        "*cifar_quick",
        r"^fc2\.weight$",
        (r"^stem\.", "conv1."),
        (r"^stages\.0\.1\.", "conv2."),
        (r"^stages\.1\.1\.", "conv3."),
        (r"^head\.hidden\.", ""),
        (r"^head\.fc\.", "fc2."),
    ),
    *_layouts(
        "*vgg16_cifar*",
        r"^stem\.conv13\.",
        *((rf"^{re.escape(name)}\.", f"stem.conv{i}.") for i, name in enumerate(_UNITS, 1)),
        (r"^head\.hidden\.fc1\.", "linear1."),
        (r"^head\.fc\.", "linear2."),
    ),
    *_layouts(
        "*resnet56",
        r"^stage3\.block8\.",
        (r"^stem\.(acb\.)?", "stage1.conv1."),
        *_STAGES,
        (r"^(stage\d)\.0\.shortcut\.", r"\1.projection."),
        (r"^(stage\d)\.(\d)\.branch\.", r"\1.block\2."),
        (r"^head\.fc\.", "linear."),
    ),
    *_layouts(
        "*wrn_16_8",
        r"\.proj\.bn\.weight$",
        (r"^stem\.", "conv1."),
        *_STAGES,
        (r"^(stage\d)\.0\.", r"\1.block1."),
        (r"^(stage\d)\.1\.", r"\1.block2."),
        (r"\.branch\.", "."),
        (r"\.shortcut\.", ".proj."),
        (r"^final\.", "last_bn."),
        (r"^head\.fc\.", "linear."),
    ),
)
