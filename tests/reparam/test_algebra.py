"""Laws of the algebra, in float64: each transform against the two convolutions it stands for."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tests.support.blocks import pairs
from zoo.reparam.algebra import (
    AffineKernel,
    add,
    align,
    average,
    compose,
    concatenate,
    embed,
    identity,
    per_channel,
    regroup,
)
from zoo.reparam.spec import ConvSpec
from zoo.surgery.linear import select

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


sizes, strides, spreads = pairs(1, 4), pairs(1, 2), pairs(1, 3)


@given(groups, groups, sizes, sizes, strides, strides, spreads, spreads, paddings)
def test_a_larger_conv_after_a_larger_one_is_one_of_all_their_taps(g1, g2, k1, k2, s1, s2, d1, d2, padding):
    first = kernel(8, 8, k1, seed=1, groups=g1, padding=padding, stride=s1, dilation=d1)
    second = kernel(8, 8, k2, seed=2, groups=g2, padding=(-1, 0, -2, -1), stride=s2, dilation=d2)
    extended = F.pad(X, (0, 30, 0, 30))
    assert_same(compose(first, second)(extended), second(first(extended)))


def test_a_kxk_after_a_kxk_has_all_taps_but_one():
    first, second = kernel(8, 8, (3, 5), seed=1, padding=(2, 2, 1, 1)), kernel(8, 8, (4, 3), seed=2)
    assert compose(first, second).kernel_size == (6, 7)
    with pytest.raises(ValueError, match="zero-padded"):
        compose(first, kernel(8, 8, (3, 3), padding=(1, 1, 1, 1)))
    with pytest.raises(ValueError, match="8 channels into a layer for 4"):
        compose(first, kernel(8, 4))


@given(groups, pairs(1, 3), paddings)
def test_a_batchnorm_before_a_conv_scales_its_columns(count, size, crop):
    scale, shift = torch.rand(8, dtype=torch.float64) + 0.5, torch.randn(8, dtype=torch.float64)
    conv = kernel(16, 8, size, groups=count, padding=tuple(-abs(side) for side in crop))
    merged = compose(per_channel(scale, shift), conv)
    assert merged.groups == count
    assert_same(merged(X), conv(per_channel(scale, shift)(X)))


@given(groups, groups, sizes, sizes, pairs(0, 3), pairs(0, 3), spreads, spreads, strides)
def test_a_sum_is_one_kernel_of_the_union_of_the_windows(g1, g2, k1, k2, p1, p2, d1, d2, stride):
    a = kernel(8, 8, k1, seed=1, groups=g1, stride=stride, dilation=d1, padding=(p1[1], p1[1], p1[0], p1[0]))
    reach = [2 * p1[i] - d1[i] * (k1[i] - 1) + d2[i] * (k2[i] - 1) for i in (0, 1)]  # of b's padding, by its size
    sides = (p2[1], reach[1] - p2[1], p2[0], reach[0] - p2[0])
    b = kernel(8, 8, k2, seed=2, groups=g2, stride=stride, dilation=d2, padding=sides)
    extended = F.pad(X, (0, 20, 0, 20))
    together = align([a, b])
    assert together[0].kernel_size == together[1].kernel_size
    assert together[0].groups == min(g1, g2)
    assert_same(add(together)(extended), a(extended) + b(extended))


def test_a_dilated_branch_and_a_larger_one_need_no_more_taps():
    large, sparse = kernel(size=(7, 7), padding=(3,) * 4), kernel(size=(3, 3), dilation=(3, 3), padding=(3,) * 4)
    total = add(align([large, sparse, identity(8, X)]))
    assert (total.kernel_size, total.padding, total.dilation) == ((7, 7), (3, 3, 3, 3), (1, 1))
    alone = add(align([sparse, identity(8, X)]))
    assert (alone.kernel_size, alone.dilation) == ((3, 3), (3, 3))
    assert_same(alone(X), sparse(X) + X)
    assert_same(align([sparse])[0](X), sparse(X))
    assert add(align([identity(8, X), kernel()])).dilation == (1, 1)
    apart = [kernel(seed=1, padding=(1, -1, 1, -1)), kernel(seed=2, padding=(-2, 2, -2, 2))]
    total = add(align(apart))
    assert (total.kernel_size, total.dilation) == ((2, 2), (3, 3))
    assert_same(total(X), apart[0](X) + apart[1](X))


def test_sums_of_other_strides_or_output_sizes_are_refused():
    with pytest.raises(ValueError, match="strides"):
        align([kernel(), kernel(stride=(2, 2))])
    with pytest.raises(ValueError, match="whole taps"):
        align([kernel(size=(3, 3)), kernel()])
    with pytest.raises(ValueError, match="whole taps"):  # of an odd map, average pooling drops the last row
        align([average(8, (2, 2), (2, 2), (0, 0), X), kernel(stride=(2, 2))])


@given(st.integers(0, 7), st.integers(1, 8), pairs(1, 3), groups)
def test_slices_and_concatenations_are_kernels(start, stop, size, count):
    stop = max(stop, start + 1)
    part = select(8, torch.arange(start, stop), X)
    assert torch.equal(part(X), X[:, start:stop])
    branch = kernel(8, 8, size, groups=count, padding=(size[1] - 1, 0, size[0] - 1, 0))
    joined = concatenate([regroup(each, 1) for each in align([part, branch])])
    assert_same(joined(X), torch.cat([X[:, start:stop], branch(X)], 1))


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
        before = compose(per_channel(scale, torch.zeros_like(scale)), conv)
    assert torch.equal(merged.weight, conv.weight * scale[:, None, None, None])
    assert torch.equal(before.weight, conv.weight * scale[None, :, None, None])
    assert counter.get_total_flops() == 0


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


@pytest.mark.parametrize(
    "size, dilation, padding",
    [
        ((1, 1), 1, (1, 1, 1, 1)),  # larger than the window's output
        ((1, 1), 1, (1, -1, 1, -1)),  # one pixel beside a tap
        ((2, 2), 3, (2, 1, 2, 1)),  # begins on a tap and ends between two
    ],
)
def test_a_branch_between_the_taps_of_a_dilated_conv_is_refused(size, dilation, padding):
    spec = ConvSpec(in_channels=8, out_channels=8, kernel_size=3, padding=2, dilation=2)
    with pytest.raises(ValueError, match="whole taps"):
        embed(kernel(8, 8, size, padding=padding, dilation=(dilation, dilation)), spec)


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
    for channels in ((8, 6), (6, 8)):
        with pytest.raises(ValueError, match="groups=3"):
            ConvSpec(*channels, kernel_size=3, groups=3)


def test_what_a_kernel_does_not_say_is_what_nn_conv2d_does():
    assert ConvSpec(3, 4, 5) == ConvSpec.of(nn.Conv2d(3, 4, 5))
    plain = kernel(8, 8, (3, 3))
    assert_same(plain(X), F.conv2d(X, plain.weight, plain.bias))


def test_kernels_of_different_geometry_do_not_join():
    with pytest.raises(ValueError, match="geometry"):
        add([kernel(4), kernel(8)])
    with pytest.raises(ValueError, match="geometry"):
        add([kernel(), kernel(size=(3, 3))])
    with pytest.raises(ValueError, match="geometry"):
        concatenate([kernel(), kernel(stride=(2, 2))])
    with pytest.raises(ValueError, match="geometry"):
        concatenate([kernel(4, 8), kernel(4, 4)])
    assert concatenate([kernel(4), kernel(8)]).out_channels == 12


@pytest.mark.parametrize("value", ["same", (1, 1, 1), 1.5])
def test_a_spec_takes_numbers_or_pairs(value):
    with pytest.raises(ValueError, match=r"padding=.* no number or pair"):
        ConvSpec(in_channels=8, out_channels=8, kernel_size=3, padding=value)
