"""Small networks for the tests of zoo.export: random BatchNorm statistics, all kinds of layers."""

import torch
from torch import Tensor, nn

import zoo
from tests.support.blocks import randomise

CLASSES = 7


class Small(nn.Module):
    """Stem, a residual block, a depthwise layer, a gate, a head: 3×3 convolutions that `convert` replaces."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.conv = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.depthwise = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1, groups=8, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1), nn.Sigmoid())
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.relu(x + self.bn(self.conv(x)))
        x = self.depthwise(x)
        x = x * self.gate(x)
        return self.head(x.mean((2, 3)))


def small_network(block: str = "repvgg", seed: int = 0) -> nn.Module:
    """`Small` in training structure, eval mode, every BatchNorm away from its initial state."""
    torch.manual_seed(seed)
    return randomise(zoo.convert(Small(), block), seed).eval()


def images(number: int, size: int = 32, seed: int = 0) -> Tensor:
    return torch.randn(number, 3, size, size, generator=torch.Generator().manual_seed(seed))
