"""Structural re-parameterization: algebra → layers → fold → block → branches → convert, deploy."""

from zoo.reparam import foreign, orepa  # their blocks join the table of branches

__all__ = ["foreign", "orepa"]
