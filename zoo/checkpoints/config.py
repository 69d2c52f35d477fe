"""What `zoo inspect` and `zoo convert-checkpoint` can be told."""

from dataclasses import dataclass
from typing import Literal

from zoo.settings import AnyFile, StoredNetwork, WeightsFile, positional


@dataclass(kw_only=True)
class InspectConfig(StoredNetwork):
    """Show what a checkpoint or a network holds, and each branch's share of its block's equivalent kernel.

    Shares are by Frobenius norm. A network that is named, not loaded, has random weights.
    """

    checkpoint: str = positional("CHECKPOINT|MODEL")
    """a file in any layout, or the name of a network"""
    block: str | None = None
    """the branch set it was built with, if the checkpoint does not hold it"""


@dataclass(kw_only=True)
class ConvertCheckpointConfig(WeightsFile):
    """Rewrite a checkpoint in another layout. Its own layout and structure are recognised."""

    checkpoint: str = positional("CHECKPOINT")
    """the file: any known layout, .pth or .safetensors"""
    model: str | None = None
    """registered name; files of ours know theirs"""
    to: Literal["official", "timm", "stock", "zoo"] = "zoo"
    """the names of the authors, of timm, of torchvision's or timm's plain network (stock: deployed), or ours"""
    ema: bool = False
    """the averaged weights of a training checkpoint"""
    output: AnyFile
    """file to write; .safetensors, else by torch.save"""
