"""Structural re-parameterization: algebra → layers → fold → block → branches → convert, deploy."""
