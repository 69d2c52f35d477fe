"""What ACNet's own repository (DingXiaoH/ACNet) calls otherwise than DBB's, which has ACB too; see `tables.py`.

A block that an activation follows is `acb` beside it. The stem is no stage; a bottleneck's shortcut is a projection.
"""

from zoo.checkpoints.layouts import Rules

ACB: Rules = (
    (r"\.branches\.kxk\.(conv|bn)\.", r".square_\1."),
    (r"\.branches\.(ver|hor)\.(conv|bn)\.", r".\1_\2."),
    (r"\.branches\.fused\.", ".fused_conv."),
)
_IN_ACB = r"(?=(?:square|ver|hor)_|fused_conv)"
IN_BASIC_RESNET: Rules = ((rf"^(layer\d\.\d+\.conv1)\.{_IN_ACB}", r"\1.acb."),)
IN_BOTTLENECK_RESNET: Rules = ((rf"^(layer\d\.\d+\.conv2)\.{_IN_ACB}", r"\1.acb."),)
IN_MOBILENET: Rules = ((rf"(^conv_stem|\.conv_dw)\.{_IN_ACB}", r"\1.acb."),)
OF_BASIC_RESNET: Rules = ((r"^stage0\.", ""),)
OF_BOTTLENECK_RESNET: Rules = (
    (r"^stage0\.", ""),
    (r"^(stage\d)\.0\.shortcut\.", r"\1.projection."),
    (r"^(stage\d)\.(\d+)\.", r"\1.block\2."),
    (r"^linear\.", "fc."),
)
