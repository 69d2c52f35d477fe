"""Small networks that are in no library we use, each written from its paper, for what folding makes of them.

`NETWORKS` has beside each what its authors' own converter leaves: (convolutions and linear layers, BatchNorms).
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn


def conv_bn(channels: int, out: int, size: int = 1, stride: int = 1, groups: int = 1, dilation: int = 1, act=None):
    """Convolution of odd size that keeps the map's size, BatchNorm, and an activation if one is given."""
    padding = dilation * (size // 2)
    conv = nn.Conv2d(channels, out, size, stride, padding, dilation, groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out), *([act()] if act else []))


def silu(channels: int, out: int, size: int = 1, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return conv_bn(channels, out, size, stride, groups, act=nn.SiLU)


class Residual(nn.Module):
    """x + body(x)"""

    def __init__(self, *body: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*body)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class RepConvN(nn.Module):
    """YOLOv9's convolution: 3x3 + 1x1; the sum with zero stands for the identity branch that it does not use."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.act, self.bn = nn.SiLU(), None
        self.conv1, self.conv2 = conv_bn(channels, channels, 3), conv_bn(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        identity = 0 if self.bn is None else self.bn(x)
        return self.act(self.conv1(x) + self.conv2(x) + identity)


class CrossStage(nn.Module):
    """YOLOv9's RepNCSP: half of the channels through residual blocks, the other half past them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.cv1, self.cv2, self.cv3 = silu(channels, half), silu(channels, half), silu(channels, channels)
        self.m = nn.Sequential(*(Residual(RepConvN(half), silu(half, half, 3)) for _ in range(2)))

    def forward(self, x: Tensor) -> Tensor:
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))


class Gelan(nn.Module):
    """YOLOv9's RepNCSPELAN4: every stage's answer is concatenated."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.cv1, self.cv4 = silu(channels, channels), silu(2 * channels, channels)
        self.cv2, self.cv3 = (nn.Sequential(CrossStage(half), silu(half, half, 3)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        y = list(self.cv1(x).chunk(2, 1))
        y.extend(stage(y[-1]) for stage in (self.cv2, self.cv3))
        return self.cv4(torch.cat(y, 1))


class RepVGGDW(nn.Module):
    """YOLOv10's large depthwise convolution: 7x7 + 3x3."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv, self.conv1 = (conv_bn(channels, channels, size, groups=channels) for size in (7, 3))
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x) + self.conv1(x))


def compact_inverted(channels: int) -> nn.Module:
    """YOLOv10's compact inverted block."""
    wide = 2 * channels
    ends = [silu(channels, channels, 3, groups=channels) for _ in range(2)]
    return Residual(ends[0], silu(channels, wide), RepVGGDW(wide), silu(wide, channels), ends[1])


class DilatedReparam(nn.Module):
    """UniRepLKNet's large kernel, 9x9, beside dilated small ones."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        sizes = ((9, 1), (5, 1), (5, 2), (3, 3), (3, 4))
        self.branches = nn.ModuleList(conv_bn(channels, channels, size, 1, channels, rate) for size, rate in sizes)

    def forward(self, x: Tensor) -> Tensor:
        out = self.branches[0](x)
        for branch in self.branches[1:]:
            out = out + branch(x)
        return out


class Permute(nn.Module):
    def __init__(self, *axes: int) -> None:
        super().__init__()
        self.axes = axes

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(self.axes)


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, channels // 4, 1), nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.up(self.down(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


class ResponseNorm(nn.Module):
    """Global response normalisation of channels-last maps (ConvNeXt V2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma, self.beta = (nn.Parameter(torch.rand(channels)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        norm = x.norm(dim=(1, 2), keepdim=True)
        return (self.gamma * norm / (norm.mean(-1, keepdim=True) + 1e-6) + 1) * x + self.beta


class UniRepLKBlock(nn.Module):
    """UniRepLKNet's block: large kernel, squeeze-and-excitation, two linear layers in channels-last, layer scale."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        wide = 4 * channels
        self.dwconv, self.norm, self.se = DilatedReparam(channels), nn.BatchNorm2d(channels), SqueezeExcite(channels)
        self.pwconv1 = nn.Sequential(Permute(0, 2, 3, 1), nn.Linear(channels, wide))
        self.act = nn.Sequential(nn.GELU(), ResponseNorm(wide))
        self.pwconv2 = nn.Sequential(
            nn.Linear(wide, channels, bias=False), Permute(0, 3, 1, 2), nn.BatchNorm2d(channels)
        )
        self.gamma = nn.Parameter(torch.rand(channels))

    def forward(self, x: Tensor) -> Tensor:
        y = self.pwconv2(self.act(self.pwconv1(self.se(self.norm(self.dwconv(x))))))
        return self.gamma.view(1, -1, 1, 1) * y + x


class LearnableAffine(nn.Module):
    """PP-LCNetV3's learnable affine block: one scale and one bias for the whole map."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.bias = nn.Parameter(torch.tensor([0.7])), nn.Parameter(torch.tensor([0.2]))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x + self.bias


class LearnableRep(nn.Module):
    """PP-LCNetV3's layer: four KxK, 1x1 and identity, an affine block, and hard swish with another one."""

    def __init__(self, channels: int, out: int, size: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.identity = nn.BatchNorm2d(channels) if channels == out and stride == 1 else None
        self.convs = nn.ModuleList(conv_bn(channels, out, size, stride, groups) for _ in range(4))
        self.conv1 = conv_bn(channels, out, 1, stride, groups) if size > 1 else None
        self.lab, self.act = LearnableAffine(), nn.Sequential(nn.Hardswish(), LearnableAffine())

    def forward(self, x: Tensor) -> Tensor:
        out = 0
        if self.identity is not None:
            out += self.identity(x)
        if self.conv1 is not None:
            out += self.conv1(x)
        for conv in self.convs:
            out += conv(x)
        out = self.lab(out)
        return out if self.stride == 2 else self.act(out)


def lcnet(channels: int, out: int, size: int, stride: int = 1, se: bool = False) -> nn.Sequential:
    """PP-LCNetV3's block."""
    depthwise = LearnableRep(channels, channels, size, stride, groups=channels)
    return nn.Sequential(depthwise, *([SqueezeExcite(channels)] if se else []), LearnableRep(channels, out, 1))


class Depthwise(nn.Module):
    """RepNeXt's depthwise kernel: a sum of kernels, or of chains of them, each with or without a bias."""

    def __init__(self, channels: int, stride: int, *chains: tuple[tuple[int, int, bool], ...], dilated=False) -> None:
        super().__init__()

        def conv(height: int, width: int, bias: bool) -> nn.Conv2d:
            strides = stride if height > 1 else 1, stride if width > 1 else 1
            padding = height // 2, width // 2
            return nn.Conv2d(channels, channels, (height, width), strides, padding, groups=channels, bias=bias)

        self.chains = nn.ModuleList(nn.Sequential(*(conv(*layer) for layer in chain)) for chain in chains)
        if dilated:
            self.chains.append(nn.Conv2d(channels, channels, 2, stride, 1, dilation=2, groups=channels))

    def forward(self, x: Tensor) -> Tensor:
        out = self.chains[0](x)
        for chain in self.chains[1:]:
            out = out + chain(x)
        return out


def small_depthwise(channels: int, stride: int = 1) -> Depthwise:
    """RepNeXt's 3x3 + 1x3 + 3x1 + dilated 2x2; with stride the two asymmetric kernels are one chain."""
    if stride > 1:
        return Depthwise(channels, stride, ((3, 3, True),), ((1, 3, False), (3, 1, False)), dilated=True)
    return Depthwise(channels, 1, ((3, 3, True),), ((1, 3, True),), ((3, 1, True),), dilated=True)


def medium_depthwise(channels: int, stride: int = 1) -> Depthwise:
    """RepNeXt's 7x7 + 5x3 + 3x5 + 7x1(1x7) + 5x1(1x5)."""
    single = ((7, 7, True),), ((5, 3, True),), ((3, 5, True),)
    return Depthwise(channels, stride, *single, *(((1, k, False), (k, 1, False)) for k in (7, 5)))


class ChunkConv(nn.Module):
    """RepNeXt's token mixer: four quarters of the channels, each with a kernel of its own."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        part = channels // 4
        self.conv_s, self.conv_m = small_depthwise(part), medium_depthwise(part)
        self.conv_l = nn.Sequential(
            nn.Conv2d(part, part, (1, 11), padding=(0, 5), groups=part),
            nn.Conv2d(part, part, (11, 1), padding=(5, 0), groups=part),
        )

    def forward(self, x: Tensor) -> Tensor:
        same, s, m, large = torch.chunk(x, 4, 1)
        return torch.cat((same, self.conv_s(s), self.conv_m(m), self.conv_l(large)), 1)


class CopyConv(nn.Module):
    """RepNeXt's downsampling: two kernels of all channels, concatenated."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_s, self.conv_m = small_depthwise(channels, 2), medium_depthwise(channels, 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((self.conv_s(x), self.conv_m(x)), 1)


def mixer(channels: int) -> list[nn.Module]:
    return [conv_bn(channels, 2 * channels), nn.GELU(), conv_bn(2 * channels, channels)]


class TwoHeads(nn.Module):
    """RepNeXt's classifier: the mean of two, each a linear layer after a BatchNorm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.head, self.head_dist = (nn.Sequential(nn.BatchNorm1d(channels), nn.Linear(channels, 5)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x1, x2 = self.head(x), self.head_dist(x)
        return (x1 + x2) / 2


class Pool(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def repnext() -> nn.Sequential:
    down = nn.Sequential(CopyConv(8), nn.BatchNorm2d(16), Residual(*mixer(16)))
    block = Residual(ChunkConv(16), nn.BatchNorm2d(16), *mixer(16))
    return nn.Sequential(conv_bn(3, 8, 3, 2, act=nn.GELU), down, block, Pool(), TwoHeads(16))


def stem(*blocks: nn.Module) -> nn.Sequential:
    return nn.Sequential(conv_bn(3, 8, 3, 2, act=nn.ReLU), *blocks)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int]]] = {
    "YOLOv9 (2402.13616), RepNCSPELAN4": (lambda: stem(Gelan(8)), (19, 0)),
    "YOLOv10 (2405.14458), CIB": (lambda: stem(compact_inverted(8)), (6, 0)),
    "UniRepLKNet (2311.15599)": (lambda: stem(UniRepLKBlock(8)), (6, 0)),
    "PP-LCNetV3 (PaddleOCR)": (lambda: stem(lcnet(8, 16, 5, 2), lcnet(16, 16, 5, se=True)), (7, 0)),
    "RepNeXt (2406.16004)": (repnext, (12, 2)),
}
