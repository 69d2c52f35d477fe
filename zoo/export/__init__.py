"""Engines, ONNX and OpenVINO files, int8: always from the deployed structure, parity checked."""

from zoo.export.compile import compile_for, deployed_network
from zoo.export.engines import ENGINES, PRECISIONS, Candidate, Engine
from zoo.export.files import ExportedFile, export_file
from zoo.export.parity import Parity, ParityError
from zoo.export.quantization import LayerReport, QuantizationReport, quantization_report

__all__ = [
    "ENGINES",
    "PRECISIONS",
    "Candidate",
    "Engine",
    "ExportedFile",
    "LayerReport",
    "Parity",
    "ParityError",
    "QuantizationReport",
    "compile_for",
    "deployed_network",
    "export_file",
    "quantization_report",
]
