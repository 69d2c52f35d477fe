"""What the tests of blocks share: random parameters, the geometries that a block can have, a hard network."""

import torch
from hypothesis import strategies as st
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from zoo.reparam.spec import ConvSpec


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give every BatchNorm statistics and parameters of its own; fresh ones (mean 0, variance 1) hide every bug."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                for tensor, low, high in (
                    (module.weight, 0.4, 1.0),
                    (module.bias, -0.3, 0.3),
                    (module.running_mean, -0.3, 0.3),
                    (module.running_var, 0.5, 1.5),
                ):
                    if tensor is not None:
                        tensor.copy_(
                            torch.empty_like(tensor, dtype=torch.float64).uniform_(low, high, generator=generator)
                        )
    return model


def fill_convs(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random convolution weights, those that start at zero (DBB's I + W) included."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                fan_in = module.weight[0].numel()
                noise = torch.randn(module.weight.shape, generator=generator, dtype=torch.float64)
                module.weight.copy_(noise / fan_in**0.5)
    return model


def norms_in(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


class NormReLU(nn.BatchNorm2d):
    """A norm with an activation in it, which is no BatchNorm to fold."""

    def forward(self, input):
        return super().forward(input).relu()


class OutputToo(nn.Module):
    """Answers with the convolution's own output beside the normalised one."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        y = self.conv(x)
        return self.bn(y), y


def pairs(low: int, high: int) -> st.SearchStrategy:
    return st.tuples(st.integers(low, high), st.integers(low, high))


@st.composite
def specs(draw: st.DrawFn, padding_modes: tuple[str, ...] = ("zeros",)) -> ConvSpec:
    """Dense, grouped and depthwise; square, non-square and even kernels; any stride, padding and dilation."""
    groups, per_group_in, per_group_out = draw(
        st.sampled_from([(1, 4, 4), (1, 3, 5), (2, 2, 2), (2, 2, 1), (4, 1, 1), (4, 1, 2)])
    )
    return ConvSpec(
        in_channels=groups * per_group_in,
        out_channels=groups * per_group_out,
        kernel_size=draw(st.one_of(st.integers(1, 5).map(lambda k: (k, k)), pairs(1, 5))),
        stride=draw(pairs(1, 3)),
        padding=draw(pairs(0, 4)),
        dilation=draw(pairs(1, 2)),
        groups=groups,
        padding_mode=draw(st.sampled_from(padding_modes)),
    )
