"""The networks; importing this fills the registry."""

from zoo.models import mobileone, repghostnet, repvgg

__all__ = ["mobileone", "repghostnet", "repvgg"]
