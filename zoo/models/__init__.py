"""The networks; importing this fills the registry."""

from zoo.models import alexnet, converted, mobileone, repghostnet, repvgg, yolov7

__all__ = ["alexnet", "converted", "mobileone", "repghostnet", "repvgg", "yolov7"]
