"""Compositions with a map between that is padded: exact where the padding is what the first layer answers to zeros."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from tests.reparam.test_algebra import X, assert_same, groups, kernel, strides
from zoo.reparam.algebra import compose, pad_output


@given(groups, groups, st.integers(1, 4), st.integers(1, 4), strides, strides, st.tuples(*[st.integers(0, 3)] * 4))
def test_a_kx1_after_a_1xk_without_bias_may_pad_its_own_axis(g1, g2, k1, k2, s1, s2, padding):
    first = kernel(8, 8, (1, k1), seed=1, groups=g1, stride=s1, padding=padding)
    first = replace(first, bias=torch.zeros_like(first.bias), unbiased=True)
    second = kernel(8, 8, (k2, 1), seed=2, groups=g2, stride=s2, padding=(-1, 0, *padding[:2]))
    assert_same(compose(first, second)(X), second(first(X)))


@pytest.mark.parametrize(
    "first",
    [
        kernel(size=(1, 3)),  # with a bias
        replace(kernel(size=(3, 1)), unbiased=True),  # more taps along the padded axis
        replace(kernel(size=(1, 3), padding=(0, 0, -1, 0)), unbiased=True),  # reads less than there is
    ],
)
def test_any_other_padding_between_is_refused(first):
    with pytest.raises(ValueError, match="zero-padded"):
        compose(first, kernel(size=(3, 1), padding=(0, 0, 1, 1)))


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
