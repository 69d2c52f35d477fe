"""What `zoo export` can be told."""

from dataclasses import dataclass
from typing import Literal

from zoo.settings import CalibrationImages, Count, ModelFile, NonNegative, Pixels, StoredNetwork, positional

Kind = Literal["onnx", "openvino", "torch-export", "torchscript", "ncnn", "mnn", "litert", "executorch", "coreml"]


@dataclass(kw_only=True)
class ExportConfig(StoredNetwork, CalibrationImages):
    """Write a network as a file for an engine or a phone, in deployed structure unless told otherwise."""

    checkpoint: str = positional("[CHECKPOINT]", "")
    """weights, in any layout and structure"""
    output: ModelFile
    """the file to write: .onnx, .xml (OpenVINO), .pt2, .torchscript, .ncnn.param, .mnn, .tflite, .pte or .mlpackage"""
    format: Kind | None = None
    """kind of file; by default what the ending of --output says"""
    pretrained: bool = False
    """published weights of --model instead of CHECKPOINT"""
    structure: Literal["deployed", "train", "both"] = "deployed"
    """which structure; both: FILE and FILE-train"""
    precision: Literal["fp32", "fp16", "int8"] = "fp32"
    """of the weights; fp16 for openvino and coreml, int8 for onnx, openvino and mnn: it needs images to calibrate on"""
    img_size: Pixels | None = None
    """side of the images it takes; by default the checkpoint's, or the network's"""
    batch_size: Count = 1
    """images per call"""
    dynamic_batch: bool = False
    """leave the number of images free"""
    opset: Count | None = None
    """ONNX operator set; by default PyTorch's"""
    max_drop: NonNegative | None = None
    """int8: points of top-1 that it may cost at most, on the validation images of --data-dir or --dataset"""
    random_calibration: bool = False
    """int8 on noise: for timing only, the answers are useless"""
