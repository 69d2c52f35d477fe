"""The linear layers that branches need beside torch's own. Each says in `fold` what kernel it is."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.reparam.spec import Padding, Pair


class Window2d(nn.Module):
    """Every stride-th pixel of a map padded (negative: cropped) by `padding`: what a smaller kernel reads.

    A strided 1x1 branch reads the subsampled map instead of striding itself. It is exactly equal, and it keeps
    clear of a heap corruption of torch on CPU in the weight gradient of strided 1x1 convolutions
    (float32, channels_last, fewer than 16 input channels; oneDNN issue 6035).
    """

    def __init__(self, padding: Padding, stride: Pair = (1, 1)) -> None:
        super().__init__()
        self.padding = padding
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        if self.padding != (0, 0, 0, 0):
            x = F.pad(x, self.padding)
        if self.stride != (1, 1):
            x = x[:, :, :: self.stride[0], :: self.stride[1]]
        return x

    def extra_repr(self) -> str:
        return f"padding={self.padding}, stride={self.stride}"


class AveragePool2d(nn.Module):
    """Average pooling without padding, as `nn.AvgPool2d`, that also knows dilation."""

    def __init__(self, channels: int, kernel_size: Pair, stride: Pair, dilation: Pair) -> None:
        super().__init__()
        self.channels, self.kernel_size, self.stride, self.dilation = channels, kernel_size, stride, dilation

    def forward(self, x: Tensor) -> Tensor:
        if self.dilation == (1, 1):
            return F.avg_pool2d(x, self.kernel_size, self.stride)
        kh, kw = self.kernel_size
        weight = x.new_full((self.channels, 1, kh, kw), 1 / (kh * kw))
        return F.conv2d(x, weight, None, self.stride, 0, self.dilation, self.channels)

    def extra_repr(self) -> str:
        return f"{self.channels}, kernel_size={self.kernel_size}, stride={self.stride}, dilation={self.dilation}"


class BatchNormPad2d(nn.Module):
    """BatchNorm, then a border filled with what the normalised 1x1 convolution answers to a zero pixel.

    That answer is β - μγ/√(σ²+ε), from the running statistics also while training and without gradient, as the
    official DBB has it; with a border of zeros the chain 1x1-BN-KxK could not be folded (2103.13425, section 3.2).
    Expects a bias-free pointwise convolution before it. The BatchNorm is a module of its own so that conversions
    to synchronised or frozen BatchNorm reach it.
    """

    def __init__(
        self, num_features: int, border: Pair, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(num_features, device=device, dtype=dtype)
        self.border: Padding = (border[1], border[1], border[0], border[0])

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn(x)
        if self.border != (0, 0, 0, 0):
            pixel, frame = torch.zeros_like(y[:1, :, :1, :1]), torch.zeros_like(y[:1, :1])
            bn = self.bn
            scale, shift = bn.weight.detach(), bn.bias.detach()
            response = F.batch_norm(pixel, bn.running_mean, bn.running_var, scale, shift, False, 0.0, bn.eps)
            # Arithmetic on the padded map, not slice assignment: traceable, and without DBB's copies.
            y = torch.addcmul(F.pad(y, self.border), F.pad(frame, self.border, value=1.0), response)
        return y

    def extra_repr(self) -> str:
        return f"border={self.border}"


class IdentityConv2d(nn.Conv2d):
    """A 1x1 convolution whose kernel is I + W with W starting at zero (2103.13425, section 3.3).

    Weight decay pulls the map towards the identity, not towards zero.
    """

    def __init__(
        self, channels: int, groups: int = 1, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__(channels, channels, 1, groups=groups, bias=False, device=device, dtype=dtype)

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)

    def full_weight(self, weight: Tensor) -> Tensor:
        """I + W, (channels, channels / groups, 1, 1), in the dtype of W."""
        diagonal = torch.diag(weight.new_ones(self.in_channels // self.groups)).repeat(self.groups, 1)
        return weight + diagonal[:, :, None, None]

    def forward(self, input: Tensor) -> Tensor:
        return F.conv2d(input, self.full_weight(self.weight), groups=self.groups)
