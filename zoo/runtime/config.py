"""What `zoo predict` can be told."""

from dataclasses import dataclass, field

from zoo.settings import Count, PngFile, ResultsFile, StoredNetwork


@dataclass(kw_only=True)
class PredictConfig(StoredNetwork):
    """Say what is in pictures: the most probable classes, by name."""

    images: list[str] = field(metadata={"positional": "IMAGE|FOLDER|-…"})
    """pictures, folders of them (at any depth), or - for one on stdin"""
    checkpoint: str = ""
    """weights in any layout and structure, or an exported .onnx, .xml, .ncnn.param or .mnn, which needs no torch"""
    pretrained: bool = False
    """published weights of --model instead of --checkpoint"""
    topk: Count = 5
    """how many classes to name"""
    batch_size: Count = 16
    """pictures per call"""
    grid: PngFile | None = None
    """draw the pictures with the first class of each to this .png"""
    results_file: ResultsFile | None = None
    """write the results here too: .json, .csv or .md"""
