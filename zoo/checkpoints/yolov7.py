"""The layout of the official YOLOv7 (WongKinYiu/yolov7): numbers of the lines of its cfg/training/*.yaml.

Every line of such a file is a layer with a number; lines that pool, upsample or concatenate have no weights. So the
tables here are our names in the order of those lines, with None for a line without weights.
"""

import re

from zoo.checkpoints.layouts import Layout, Rules

Lines = list[str | None]


def _elan(name: str, steps: int, convs: int) -> Lines:
    stack = [f"{name}.steps.{step}.{index}" for step in range(steps) for index in range(convs)]
    return [f"{name}.path_a", f"{name}.path_b", *stack, None, f"{name}.join"]


def _transition(name: str) -> Lines:
    return [None, f"{name}.pool.conv", f"{name}.stride.conv1", f"{name}.stride.conv2", None]


def _backbone(steps: int) -> Lines:
    lines: Lines = ["stem.conv1", "stem.conv2", "stem.conv3"]
    for stage in range(4):
        lines += _transition(f"stages.{stage}.down") if stage else ["stages.0.down"]
        lines += _elan(f"stages.{stage}.elan", steps, 2)
    return lines


def _neck(steps: int, convs: int) -> Lines:
    lines: Lines = ["neck.pyramid"]
    for level in (4, 3):
        lines += [f"neck.reduce{level + 1}", None, f"neck.lateral{level}", None]
        lines += _elan(f"neck.top_down{level}", steps, convs)
    for level in (4, 5):
        lines += _transition(f"neck.down{level}") + _elan(f"neck.bottom_up{level}", steps, convs)
    return [*lines, *(f"neck.heads.{index}" for index in range(3))]


# RepConv, in the place of the last three convolutions, but not in YOLOv7-X.
_REPCONV: Rules = (
    (r"^(neck\.heads\.\d\.)conv\.branches\.kxk\.conv\.", r"\1rbr_dense.0."),
    (r"^(neck\.heads\.\d\.)conv\.branches\.kxk\.bn\.", r"\1rbr_dense.1."),
    (r"^(neck\.heads\.\d\.)conv\.branches\.1x1\.conv\.", r"\1rbr_1x1.0."),
    (r"^(neck\.heads\.\d\.)conv\.branches\.1x1\.bn\.", r"\1rbr_1x1.1."),
    (r"^(neck\.heads\.\d\.)conv\.branches\.fused\.", r"\1rbr_reparam."),
)
_UNITS: Rules = (
    (r"\.before\.conv1\.", ".cv1."),
    (r"\.shortcut\.", ".cv2."),
    (r"\.before\.conv2\.", ".cv3."),
    (r"\.before\.conv3\.", ".cv4."),
    (r"\.after\.conv1\.", ".cv5."),
    (r"\.after\.conv2\.", ".cv6."),
    (r"\.join\.", ".cv7."),
    (r"\.conv\.branches\.kxk\.", "."),
    (r"\.branches\.fused\.", "."),
)


def _layout(models: str, lines: Lines, repconv: bool = False) -> Layout:
    numbers = tuple((rf"^{re.escape(name)}\.", f"{i}.") for i, name in enumerate(lines) if name is not None)
    rules: Rules = ((r"^head\.", None), *(_REPCONV if repconv else ()), *numbers, *_UNITS)
    later = "|".join(str(number) for number in range(len(lines), 122))
    return Layout("official", models, r"^0\.conv\.weight$", rules, prefix="model.", elsewhere=rf"^({later})\.")


# The backbone alone reads a file of the whole detector, too.
YOLOV7_BACKBONE, YOLOV7X_BACKBONE = (_layout("yolov7_backbone*", _backbone(steps)) for steps in (2, 3))
LAYOUTS = (
    _layout("yolov7", _backbone(2) + _neck(4, 1), repconv=True),
    _layout("yolov7x", _backbone(3) + _neck(3, 2)),
    YOLOV7_BACKBONE,
    YOLOV7X_BACKBONE,
)
