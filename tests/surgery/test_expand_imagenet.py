"""Real weights and real photos: EfficientNet-Lite0 expanded and deployed again answers as before."""

import copy

import pytest
import torch
from torch import Tensor, nn

import zoo
from tests.support.imagenet import efficientnet_lite0, labelled_photos
from zoo.compare import NOISE_FACTOR, relative_error


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return efficientnet_lite0()


@pytest.fixture(scope="module")
def photos() -> tuple[Tensor, Tensor]:
    return labelled_photos()


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
        for model in (expanded, zoo.deploy(expanded, images[:2], verify=False)):
            logits = model(images)
            assert (correct(logits, labels, 1), correct(logits, labels, 5)) == (18, 19)
            assert torch.equal(logits.argmax(1), plain.argmax(1))
            assert relative_error(logits, exact) <= NOISE_FACTOR * noise
