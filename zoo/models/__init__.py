"""The networks; importing this fills the registry."""

from zoo.models import (
    alexnet,
    cifar,
    converted,
    mobileone,
    orepa,
    qarepvgg,
    repghostnet,
    repvgg,
    repvggplus,
    yolov7,
    yolov7_neck,
)

__all__ = [
    "alexnet",
    "cifar",
    "converted",
    "mobileone",
    "orepa",
    "qarepvgg",
    "repghostnet",
    "repvgg",
    "repvggplus",
    "yolov7",
    "yolov7_neck",
]
