"""The networks; importing this fills the registry."""

from zoo.models import repvgg

__all__ = ["repvgg"]
