"""What `zoo deploy` and `zoo expand` can be told."""

from dataclasses import dataclass

from zoo.settings import CalibrationImages, Pixels, SafetensorsFile, StoredNetwork, positional


@dataclass(kw_only=True)
class DeployConfig(StoredNetwork):
    """Fold every linear region into one convolution, prove that nothing has changed, and write the result.

    The network may be anybody's: `zoo deploy timm/repvit_m0_9 -o repvit.safetensors`.
    """

    checkpoint: str = positional("CHECKPOINT|MODEL")
    """weights, in any layout and structure, or the name of a network with published weights"""
    block: str | None = None
    """the branch set it was built with, if the checkpoint does not hold it"""
    img_size: Pixels | None = None
    """side of the images it is proven on; by default the checkpoint's, or the network's"""
    output: SafetensorsFile
    """the .safetensors file to write"""


@dataclass(kw_only=True)
class ExpandConfig(StoredNetwork, CalibrationImages):
    """Replace K×K convolutions by multi-branch blocks without changing what the network computes, proven.

    Every branch learns from the first step of the training that follows. The statistics of the new BatchNorms are
    estimated on images of that training, if any are given.
    """

    block: str = "dbb"
    """the branch set to expand into"""
    img_size: Pixels | None = None
    """side of the images it is proven on; by default the checkpoint's, or the network's"""
    output: SafetensorsFile
    """the .safetensors file to write"""
