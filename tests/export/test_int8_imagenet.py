"""Real weights and real photos: EfficientNet-Lite0 in int8, calibrated on photos that it is not judged on."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import transforms

from tests.support.imagenet import PHOTOS, efficientnet_lite0, labelled_photos
from zoo.export import Goal, export_file
from zoo.export.files import FORMATS


def crops() -> list[Tensor]:
    """64 random crops, in batches of 8, of a cat and a cup of coffee."""
    normalize = transforms.Normalize([127 / 255] * 3, [128 / 255] * 3)
    crop = transforms.Compose([transforms.RandomResizedCrop(224, (0.1, 1.0)), transforms.ToTensor(), normalize])
    torch.manual_seed(0)
    photos = [Image.open(file).convert("RGB") for file in sorted(PHOTOS.glob("*.jpg"))]
    return list(torch.stack([crop(photo) for photo in photos for _ in range(32)]).split(8))


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return efficientnet_lite0()


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "openvino", "mnn"])
def test_int8_loses_at_most_one_of_twenty_photos(format: str, network: nn.Module, tmp_path: Path) -> None:
    pytest.importorskip("nncf")
    images, labels = labelled_photos()
    file = export_file(
        *(network, tmp_path / f"net{FORMATS[format].suffix}", images[:1]),
        format=format,
        precision="int8",
        calibration=crops(),
        goal=Goal([(images, labels)], 5.0),  # one of 20 is 5 points
    )
    assert (file.attempts[0].way, file.attempts[0].top1) == ("fp32", 90)  # 18 of 20
    assert file.attempts[-1].top1 >= 85
