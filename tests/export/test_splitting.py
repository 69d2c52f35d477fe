"""Convolutions in two parts: the same function, finer steps."""

import torch
from torch import nn

import zoo
from tests.support.export_networks import images, small_network
from zoo.compare import compare
from zoo.export.splitting import CoarseAndFine, coarse_and_fine, round_weight


@torch.no_grad()
def test_dense_convolutions_are_split_into_the_same_function() -> None:
    network, x = zoo.deploy(small_network()).double(), images(4).double()
    split = coarse_and_fine(network)
    assert [name for name, one in split.named_modules() if isinstance(one, CoarseAndFine)] == [
        "stem.0",
        "conv",
        "gate.1",
    ]
    assert split.get_parameter("conv.coarse.weight").any()
    torch.testing.assert_close(split(x), network(x), rtol=1e-12, atol=1e-12)
    assert isinstance(network.get_submodule("conv"), nn.Conv2d)  # the original is not touched


def test_small_weights_beside_large_ones_get_finer_steps() -> None:
    layer = nn.Conv2d(4, 2, 3, bias=False)
    torch.manual_seed(0)
    with torch.no_grad():
        layer.weight.normal_().clamp_(-3, 3)[:, 0, 0, 0] = 100
    parts = CoarseAndFine(layer)
    assert int((parts.coarse.weight != 0).sum()) == 2
    exact = layer.weight.detach()
    whole = round_weight(exact, per_channel=True)
    both = sum(round_weight(part.weight.detach(), per_channel=True) for part in (parts.coarse, parts.fine))
    gained = compare([both], [exact]).sqnr_db - compare([whole], [exact]).sqnr_db
    assert gained > 25  # the largest of the small ones is below a thirtieth: 30 dB
