"""Laws of the algebra, in float64: each transform against the two convolutions it stands for."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from tests.blocks import pairs
from zoo.reparam.algebra import (
    AffineKernel,
    ConvSpec,
    add,
    average,
    compose,
    concatenate,
    embed,
    identity,
    pad_output,
    per_channel,
    regroup,
)

X = torch.randn(2, 8, 15, 14, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def kernel(
    out_channels: int = 8,
    in_channels: int = 8,
    size: tuple[int, int] = (1, 1),
    seed: int = 0,
    groups: int = 1,
    **geometry,
) -> AffineKernel:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(out_channels, in_channels // groups, *size, dtype=torch.float64, generator=generator)
    bias = torch.randn(out_channels, dtype=torch.float64, generator=generator)
    return AffineKernel(weight, bias, groups=groups, **geometry)


def assert_same(got: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-10)


groups = st.sampled_from([1, 2, 4, 8])
paddings = st.tuples(*[st.integers(-1, 3)] * 4)


@given(groups, groups, pairs(1, 4), pairs(1, 3), pairs(1, 2), paddings, pairs(1, 2))
def test_merging_a_pointwise_conv_into_a_larger_one_equals_applying_both(g1, g2, size, stride, dilation, padding, s1):
    first = kernel(8, 8, seed=1, groups=g1, padding=padding, stride=s1)
    second = kernel(8, 8, size, seed=2, groups=g2, stride=stride, dilation=dilation)
    extended = F.pad(X, (0, 20, 0, 20))  # room for large strided, dilated kernels
    assert_same(compose(first, second)(extended), second(first(extended)))


@given(groups, groups, pairs(1, 4), pairs(1, 3), pairs(1, 2), paddings, pairs(1, 3))
def test_merging_a_larger_conv_into_a_pointwise_one_equals_applying_both(g1, g2, size, stride, dilation, padding, s2):
    first = kernel(8, 8, size, seed=1, groups=g1, padding=padding, stride=stride, dilation=dilation)
    second = kernel(8, 8, seed=2, groups=g2, stride=s2)
    assert_same(compose(first, second)(X), second(first(X)))


@given(groups, groups, groups)
def test_composition_is_associative(g1, g2, g3):
    a, b, c = kernel(seed=1, groups=g1), kernel(seed=2, groups=g2), kernel(8, 8, (3, 3), seed=3, groups=g3)
    left, right = compose(compose(a, b), c), compose(a, compose(b, c))
    common = min(left.groups, right.groups)
    left, right = regroup(left, common), regroup(right, common)
    assert_same(left.weight, right.weight)
    assert_same(left.bias, right.bias)


@given(st.floats(-3, 3), st.floats(-3, 3))
def test_composition_is_linear_in_the_weights_of_the_second(a, b):
    first, k, m = kernel(seed=1), kernel(8, 8, (3, 3), seed=2), kernel(8, 8, (3, 3), seed=3)
    mixed = AffineKernel(a * k.weight + b * m.weight, a * k.bias + b * m.bias)
    assert_same(compose(first, mixed).weight, a * compose(first, k).weight + b * compose(first, m).weight)
    assert_same(compose(first, mixed).bias, a * compose(first, k).bias + b * compose(first, m).bias)


def test_the_identity_is_neutral():
    k = kernel(8, 8, (3, 3), padding=(1, 1, 1, 1))
    assert_same(compose(k, identity(8, X)).weight, k.weight)
    assert_same(identity(8, X)(X), X)


@given(pairs(1, 4), pairs(0, 3))
def test_a_conv_and_its_batchnorm_are_one_conv(size, padding):
    conv = kernel(6, 8, size, padding=(padding[1], padding[1], padding[0], padding[0]))
    scale, shift = torch.rand(6, dtype=torch.float64) + 0.5, torch.randn(6, dtype=torch.float64)
    wanted = conv(X) * scale[None, :, None, None] + shift[None, :, None, None]
    assert_same(compose(conv, per_channel(scale, shift))(X), wanted)


def test_a_batchnorm_scales_a_kernel_without_multiplying_matrices():
    conv, scale = kernel(8, 8, (3, 3)), torch.rand(8, dtype=torch.float64)
    with FlopCounterMode(display=False) as counter:
        merged = compose(conv, per_channel(scale, torch.zeros_like(scale)))
    assert torch.equal(merged.weight, conv.weight * scale[:, None, None, None])
    assert counter.get_total_flops() == 0


def test_transform_iii_is_exact_where_the_border_is_the_first_convs_response_to_zero():
    first, second = kernel(seed=1), kernel(8, 8, (3, 3), seed=2)
    between = first(X)
    border = first.bias[None, :, None, None]
    padded = F.pad(between - border, (1, 1, 1, 1)) + border
    assert_same(compose(pad_output(first, (1, 1, 1, 1)), second)(X), second(padded))


def test_transform_iii_fails_with_zero_padding_between_and_is_refused():
    first, second = kernel(seed=1), kernel(8, 8, (3, 3), seed=2)
    zero_padded = second(F.pad(first(X), (1, 1, 1, 1)))
    merged = compose(pad_output(first, (1, 1, 1, 1)), second)(X)
    inner = (slice(None), slice(None), slice(1, -1), slice(1, -1))
    assert_same(merged[inner], zero_padded[inner])
    assert (merged - zero_padded).abs().max() > 0.1
    with pytest.raises(ValueError, match="response to a zero pixel"):
        compose(first, kernel(8, 8, (3, 3), padding=(1, 1, 1, 1)))


@given(pairs(1, 5), pairs(1, 3), pairs(0, 3))
def test_average_pooling_is_a_conv(size, stride, padding):
    padding = min(padding[0], size[0] // 2), min(padding[1], size[1] // 2)
    assert_same(average(8, size, stride, padding, X)(X), F.avg_pool2d(X, size, stride, padding))


@given(pairs(1, 5), pairs(1, 5), pairs(0, 4), pairs(0, 4), pairs(1, 2), pairs(1, 2), pairs(1, 2))
def test_the_offset_rule_places_every_kernel_that_fits(size, small, offset, padding, dilation, stride, spread):
    """A branch at tap `offset`, its own taps `spread` target taps apart, computes what the embedded kernel does."""
    spec = ConvSpec(in_channels=8, out_channels=8, kernel_size=size, stride=stride, padding=padding, dilation=dilation)
    ends = [o + s * (k - 1) for o, s, k in zip(offset, spread, small, strict=True)]
    rest = [k - 1 - e for k, e in zip(size, ends, strict=True)]
    sides = []
    for axis in (1, 0):
        sides += [padding[axis] - dilation[axis] * offset[axis], padding[axis] - dilation[axis] * rest[axis]]
    branch = kernel(
        8,
        8,
        small,
        stride=stride,
        padding=tuple(sides),
        dilation=tuple(d * s for d, s in zip(dilation, spread, strict=True)),
    )
    if min(rest) < 0:
        with pytest.raises(ValueError, match="whole taps"):
            embed(branch, spec)
        return
    embedded = embed(branch, spec)
    assert embedded.kernel_size == size
    assert_same(embedded(X), branch(X))


def test_a_branch_between_the_taps_of_a_dilated_conv_is_refused():
    spec = ConvSpec(in_channels=8, out_channels=8, kernel_size=3, padding=2, dilation=2)
    with pytest.raises(ValueError, match="whole taps"):
        embed(kernel(8, 8, (1, 1), padding=(1, 1, 1, 1)), spec)


def test_a_branch_of_another_stride_is_refused():
    spec = ConvSpec(in_channels=8, out_channels=8, kernel_size=3, padding=1)
    with pytest.raises(ValueError, match="stride"):
        embed(kernel(stride=(2, 2)), spec)


@given(groups, groups)
def test_regrouping_keeps_the_map(many, few):
    k = kernel(8, 8, (3, 3), groups=max(many, few))
    assert_same(regroup(k, min(many, few))(X), k(X))


def test_regrouping_into_more_groups_is_refused():
    with pytest.raises(ValueError, match="groups"):
        regroup(kernel(groups=2), 4)


@settings(max_examples=20)
@given(pairs(1, 3))
def test_branches_add_and_concatenate(size):
    a, b = kernel(4, 8, size, seed=1), kernel(4, 8, size, seed=2)
    assert_same(add([a, b])(X), a(X) + b(X))
    assert_same(concatenate([a, b])(X), torch.cat([a(X), b(X)], 1))


def test_concatenating_grouped_kernels_is_refused():
    with pytest.raises(ValueError, match="regroup"):
        concatenate([kernel(groups=2), kernel(groups=2)])


def test_a_spec_whose_groups_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="groups=3"):
        ConvSpec(in_channels=8, out_channels=8, kernel_size=3, groups=3)


def test_kernels_of_different_geometry_do_not_join():
    with pytest.raises(ValueError, match="geometry"):
        add([kernel(4), kernel(8)])
    with pytest.raises(ValueError, match="geometry"):
        add([kernel(), kernel(size=(3, 3))])
    with pytest.raises(ValueError, match="geometry"):
        concatenate([kernel(), kernel(stride=(2, 2))])
    assert concatenate([kernel(4), kernel(8)]).out_channels == 12


@pytest.mark.parametrize("value", ["same", (1, 1, 1), 1.5])
def test_a_spec_takes_numbers_or_pairs(value):
    with pytest.raises(ValueError, match=r"padding=.* neither an integer nor a pair"):
        ConvSpec(in_channels=8, out_channels=8, kernel_size=3, padding=value)
