"""Engines, ONNX and OpenVINO files, int8: always from the deployed structure, parity checked."""

from zoo.export.compile import Candidate, Engine, compile_for
from zoo.export.engines import ENGINES, PRECISIONS
from zoo.export.parity import Parity, ParityError

__all__ = ["ENGINES", "PRECISIONS", "Candidate", "Engine", "Parity", "ParityError", "compile_for"]
