"""Engines, ONNX and OpenVINO files, int8: always from the deployed structure, parity checked."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
