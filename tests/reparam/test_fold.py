"""Which kernel a layer without parameters is, and which layers are none."""

import pytest
import torch
from torch import nn

from zoo.reparam.algebra import average, pad_output, regroup
from zoo.reparam.block import MultiBranchConv2d
from zoo.reparam.fold import fold
from zoo.reparam.layers import AveragePool2d, BatchNormPad2d, Window2d
from zoo.reparam.spec import ConvSpec

X = torch.randn(2, 4, 11, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "layer",
    [
        nn.Identity(),
        nn.Sequential(),
        nn.ZeroPad2d((1, 2, 0, 3)),
        nn.ZeroPad2d((-1, 0, 2, -2)),
        nn.AvgPool2d(2, count_include_pad=False),
        nn.AvgPool2d((3, 2), (2, 1), (1, 0)),
        AveragePool2d(4, (3, 2), (1, 2), (2, 1)),
        Window2d((1, -1, 0, 2), (2, 3)),
        nn.Sequential(nn.ZeroPad2d(1), nn.AvgPool2d(3, 2)),
    ],
    ids=repr,
)
def test_a_layer_without_parameters_folds_to_what_it_computes(layer):
    torch.testing.assert_close(fold(layer, 4)(X), layer(X), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "layer, reason",
    [
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), "padding_mode='reflect' inside a branch"),
        (nn.AvgPool2d(3, ceil_mode=True), "does not divide every window by the same number"),
        (nn.AvgPool2d(3, divisor_override=2), "does not divide every window by the same number"),
        (nn.AvgPool2d(3, padding=1, count_include_pad=False), "does not divide every window by the same number"),
        (nn.ReLU(), "ReLU is not a linear layer"),
    ],
    ids=repr,
)
def test_a_layer_that_is_no_convolution_is_refused(layer, reason):
    with pytest.raises(ValueError, match=reason):
        fold(layer, 4)


def test_only_the_output_of_a_pointwise_kernel_can_be_padded():
    for size, stride in (((1, 2), (1, 1)), ((1, 1), (2, 2))):
        with pytest.raises(ValueError, match="only a 1x1 convolution of stride 1"):
            pad_output(average(4, size, stride, (0, 0), X), (1, 1, 1, 1))


def test_a_kernel_of_as_many_groups_is_not_copied():
    kernel = fold(nn.Identity(), 4)
    assert regroup(kernel, 4) is kernel


def test_a_block_needs_a_branch():
    with pytest.raises(ValueError, match="at least one branch"):
        MultiBranchConv2d(ConvSpec(4, 4, 3), {})


def test_same_padding_is_read_as_a_number_where_it_is_one():
    assert ConvSpec.of(nn.Conv2d(3, 4, (3, 5), padding="same")).padding == (1, 2)
    with pytest.raises(ValueError, match="padding='same' of an even kernel is asymmetric"):
        ConvSpec.of(nn.Conv2d(3, 4, (3, 2), padding="same"))


def test_layers_and_blocks_print_their_geometry():
    assert repr(Window2d((1, 2, 3, 4), (2, 1))) == "Window2d(padding=(1, 2, 3, 4), stride=(2, 1))"
    pool = AveragePool2d(4, (3, 2), (1, 2), (2, 1))
    assert repr(pool) == "AveragePool2d(4, kernel_size=(3, 2), stride=(1, 2), dilation=(2, 1))"
    assert "border=(2, 2, 1, 1)" in repr(BatchNormPad2d(4, (1, 2)))
    block = MultiBranchConv2d(ConvSpec(4, 6, 3, stride=2), {"kxk": nn.Conv2d(4, 6, 3, 2)})
    assert "in_channels=4, out_channels=6, kernel_size=(3, 3), stride=(2, 2)" in repr(block)
