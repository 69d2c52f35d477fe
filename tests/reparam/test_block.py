"""Every branch set, in every geometry, equals the convolution it folds into; and the folds of each layer."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers import BatchNormAct2d, FrozenBatchNormAct2d
from timm.utils import freeze
from torch import nn
from torch.nn.utils import parametrize
from torchvision.ops import FrozenBatchNorm2d

from tests.support.blocks import NormReLU, fill_convs, randomise, specs
from zoo.reparam.block import MultiBranchConv2d
from zoo.reparam.branches import BRANCH_SETS, build_block
from zoo.reparam.fold import fold
from zoo.reparam.layers import BatchNormPad2d
from zoo.reparam.spec import ConvSpec
from zoo.surgery.verify import prove_block

EVERYTHING = "kxk*2+1x1+asym+avg+identity+bare_identity+1x1_kxk"
SPEC = ConvSpec(in_channels=8, out_channels=8, kernel_size=3, padding=1)


def random_block(spec: ConvSpec, block: str, dtype: torch.dtype = torch.float64, **kwargs) -> MultiBranchConv2d:
    built = build_block(spec, block, dtype=dtype, **kwargs)
    fill_convs(randomise(built))
    return built.eval()


def assert_folds(block: MultiBranchConv2d, rtol: float = 1e-10) -> None:
    spec = block.spec
    parameter = next(block.parameters())
    x = torch.randn(2, spec.in_channels, 17, 16, generator=torch.Generator().manual_seed(0)).to(parameter.dtype)
    with torch.no_grad():
        wanted, conv = block(x), block.fuse()
        got = conv(x)
    assert type(conv) is nn.Conv2d and conv.weight.dtype == parameter.dtype
    assert got.shape == wanted.shape
    torch.testing.assert_close(got, wanted, rtol=rtol, atol=rtol * wanted.abs().max().item())


@settings(max_examples=150)
@given(specs(("zeros", "reflect", "replicate", "circular")), st.sampled_from([*BRANCH_SETS, EVERYTHING]))
def test_every_branch_set_equals_its_conv(spec, block):
    assert_folds(random_block(spec, block))


@pytest.mark.parametrize("kernel, padding", [(3, 1), (3, 0), (5, 1), (5, 2), (5, 3), (5, 4), (5, 6)])
@pytest.mark.parametrize("groups", [1, 2, 8])
@pytest.mark.parametrize("stride", [1, 2])
def test_acb_folds_for_every_padding(kernel, padding, groups, stride):
    spec = ConvSpec(in_channels=8, out_channels=8, kernel_size=kernel, stride=stride, padding=padding, groups=groups)
    assert_folds(random_block(spec, "acb"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_folding_is_done_in_float64_and_keeps_the_dtype(dtype):
    block = random_block(SPEC, "dbb", torch.float32).to(dtype)
    conv = block.fuse()
    with torch.no_grad():
        exact = copy.deepcopy(block).double().equivalent_kernel()
    assert conv.weight.dtype == conv.bias.dtype == dtype
    assert torch.equal(conv.weight, exact.weight.to(dtype))
    assert torch.equal(conv.bias, exact.bias.to(dtype))


def test_channels_last_input_gives_the_same_as_contiguous():
    block = random_block(SPEC, EVERYTHING, torch.float32)
    x = torch.randn(2, 8, 12, 12)
    torch.testing.assert_close(block.to(memory_format=torch.channels_last)(x), block(x), rtol=1e-5, atol=1e-5)


def test_a_block_in_training_mode_fuses_to_what_it_answers_in_eval_mode():
    block = randomise(build_block(SPEC, "repvgg")).double().train()
    fused, x = block.fuse(), torch.randn(2, SPEC.in_channels, 9, 9, dtype=torch.float64)
    torch.testing.assert_close(fused(x), block.eval()(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("convert", [nn.SyncBatchNorm.convert_sync_batchnorm, freeze], ids=["sync", "frozen"])
@pytest.mark.parametrize("name", sorted(BRANCH_SETS))
def test_synchronised_and_frozen_batchnorm_fold(name, convert):
    block = random_block(SPEC, name)
    before = block.equivalent_kernel()
    converted = convert(block)
    converted = block if converted is None else converted
    after = converted.eval().equivalent_kernel()
    assert not any(type(m) is nn.BatchNorm2d for m in converted.modules())
    assert torch.equal(before.weight, after.weight) and torch.equal(before.bias, after.bias)


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm2d(8, affine=False),
        nn.BatchNorm2d(8),
        nn.SyncBatchNorm(8),
        FrozenBatchNorm2d(8),
        BatchNormAct2d(8, apply_act=False),
        FrozenBatchNormAct2d(8, apply_act=False),
    ],
    ids=lambda norm: type(norm).__name__,
)
def test_every_kind_of_batchnorm_folds(norm):
    with torch.no_grad():
        norm.running_mean.uniform_(-1, 1)
        norm.running_var.uniform_(0.5, 2)
        if norm.weight is not None:
            norm.weight.uniform_(0.5, 2)
            norm.bias.uniform_(-1, 1)
    norm = norm.double().eval()
    x = torch.randn(2, 8, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(fold(norm, 8)(x), norm(x), rtol=1e-12, atol=1e-12)


def test_batchnorm_without_running_statistics_is_refused():
    with pytest.raises(ValueError, match="running statistics"):
        fold(nn.BatchNorm2d(8, track_running_stats=False), 8)


def test_batchnorm_with_an_activation_is_not_linear():
    with pytest.raises(ValueError, match="activation"):
        fold(BatchNormAct2d(8), 8)


def test_a_conv_with_bias_folds():
    conv = nn.Conv2d(8, 6, 3, padding=1, bias=True).double()
    block = MultiBranchConv2d(ConvSpec.of(conv), {"conv": nn.Sequential(conv, randomise(nn.BatchNorm2d(6)).double())})
    assert_folds(block.eval())


class Scaled(nn.Conv2d):
    def forward(self, input):
        return 2 * super().forward(input)


@pytest.mark.parametrize(
    "branch, reason",
    [
        (nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()), "not a linear layer"),
        (Scaled(8, 8, 3, padding=1), "way of its own"),
        (nn.Sequential(nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, padding=1)), "zero-padded"),
        (nn.Conv2d(8, 8, 3, padding=2), "whole taps"),
        (nn.Conv2d(8, 8, 3, padding=1, stride=2), "stride"),
        (nn.AvgPool2d(3, 1, 1, count_include_pad=False), "divide"),
        (nn.Conv2d(4, 8, 3, padding=1), r"\(4, 8\) channels"),
        (nn.Conv2d(8, 4, 3, padding=1), r"\(8, 4\)"),
        (nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), NormReLU(8)), "NormReLU computes its normalisation in a way"),
    ],
)
def test_a_branch_that_cannot_fold_is_refused_when_the_block_is_built(branch, reason):
    with pytest.raises(ValueError, match=reason):
        MultiBranchConv2d(SPEC, {"branch": branch})


def test_the_equivalent_kernel_is_differentiable_in_every_parameter():
    block = build_block(SPEC, EVERYTHING).eval()
    kernel = block.equivalent_kernel()
    (kernel.weight.square().sum() + kernel.bias.square().sum() + kernel.bias.sum()).backward()
    assert {name for name, p in block.named_parameters() if p.grad is None} == set()


def test_the_equivalent_kernel_sees_a_parametrization():
    class Double(nn.Module):
        def forward(self, weight):
            return 2 * weight

    block = random_block(SPEC, "plain")
    before = block.equivalent_kernel().weight
    parametrize.register_parametrization(block.branches["kxk"].conv, "weight", Double())
    torch.testing.assert_close(block.equivalent_kernel().weight, 2 * before)


def test_no_tensor_is_cached_outside_the_state_dict():
    block = build_block(SPEC, EVERYTHING)
    held = {id(t) for t in [*block.parameters(), *block.buffers()]}
    for module in block.modules():
        stray = [k for k, v in vars(module).items() if isinstance(v, torch.Tensor) and id(v) not in held]
        assert stray == []


def test_dbbs_border_is_what_the_pointwise_chain_answers_to_zero():
    layer = randomise(BatchNormPad2d(4, (1, 2))).double().eval()
    y = layer(torch.randn(2, 4, 5, 5, dtype=torch.float64))
    response = fold(layer.bn, 4).bias
    assert y.shape == (2, 4, 7, 9)
    for border in (y[:, :, 0], y[:, :, -1], y[:, :, :, 0], y[:, :, :, 1], y[:, :, :, -2], y[:, :, :, -1]):
        torch.testing.assert_close(border, response[None, :, None].expand_as(border))


def test_dbbs_border_follows_the_running_statistics_in_training_and_has_no_gradient():
    layer = randomise(BatchNormPad2d(4, (1, 1))).train()
    x = torch.randn(8, 4, 6, 6)
    y = layer(x)
    after_update = fold(layer.bn, 4).bias.float()
    torch.testing.assert_close(y[0, :, 0, 0], after_update)
    y[:, :, 0].sum().backward()
    assert torch.equal(layer.bn.bias.grad, torch.zeros(4))


def test_single_init_starts_as_the_conv_alone():
    block = build_block(SPEC, "dbb", single_init=True)
    scales = {name: branch[-1].weight.unique().tolist() for name, branch in block.branches.items()}
    assert scales == {"kxk": [1.0], "1x1": [0.0], "avg": [0.0], "1x1_kxk": [0.0]}


def test_init_gamma_sets_the_scale_of_every_branch():
    block = build_block(SPEC, "acb", init_gamma=1 / 3)
    for branch in block.branches.values():
        torch.testing.assert_close(branch[-1].weight, torch.full((8,), 1 / 3))


def test_branches_exist_where_the_papers_have_them():
    depthwise = ConvSpec(in_channels=8, out_channels=8, kernel_size=3, padding=1, groups=8)
    strided = ConvSpec(in_channels=8, out_channels=8, kernel_size=3, stride=2, padding=1)
    assert list(build_block(SPEC, "repvgg").branches) == ["kxk", "1x1", "identity"]
    assert list(build_block(strided, "repvgg").branches) == ["kxk", "1x1"]
    assert list(build_block(SPEC, "dbb").branches) == ["kxk", "1x1", "avg", "1x1_kxk"]
    assert list(build_block(depthwise, "dbb").branches) == ["kxk", "avg", "1x1_kxk"]
    assert build_block(depthwise, "dbb").branches["1x1_kxk"].conv1.out_channels == 16
    assert list(build_block(SPEC, "kxk*4+1x1").branches) == ["kxk", "kxk_2", "kxk_3", "kxk_4", "1x1"]


def test_branch_sets_may_be_spaced():
    assert list(build_block(SPEC, "kxk * 2 + 1x1").branches) == ["kxk", "kxk_2", "1x1"]


@pytest.mark.parametrize(
    "block, message",
    [
        ("kxk+1x1+kxk", "two branches 'kxk': repeat a branch by `\\*2`"),
        ("kxk*2+kxk", "two branches 'kxk'"),
        ("1x1+mix1x1", "two branches '1x1'"),
        ("kxk*two", "`\\*` takes a positive number, not 'two'"),
        ("kxk*0", "not '0'"),
        ("kxk*", "not ''"),
    ],
)
def test_a_branch_set_that_is_not_what_it_says_is_refused(block, message):
    with pytest.raises(ValueError, match=message):
        build_block(SPEC, block)


def test_single_init_without_the_conv_itself_is_refused():
    with pytest.raises(ValueError, match="'kxk' branch alone, which block '1x1\\+avg' does not have"):
        build_block(SPEC, "1x1+avg", single_init=True)


def test_an_empty_branch_is_the_identity_and_a_block_needs_no_parameters():
    spec = ConvSpec(in_channels=8, out_channels=8, kernel_size=1)
    block = MultiBranchConv2d(spec, {"empty": nn.Sequential()}).eval()
    conv = block.fuse()
    assert torch.equal(conv.weight[:, :, 0, 0], torch.eye(8)) and torch.equal(conv.bias, torch.zeros(8))
    assert prove_block(block) == 0


def test_an_unknown_block_names_near_ones():
    with pytest.raises(ValueError, match="did you mean repvgg"):
        build_block(SPEC, "repvg")


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
def test_a_block_can_be_scripted_traced_and_exported(train):
    block = random_block(SPEC, EVERYTHING, torch.float32).train(train)
    x = torch.randn(2, 8, 6, 6)
    wanted = copy.deepcopy(block)(x)
    scripted = torch.jit.script(copy.deepcopy(block))
    traced = torch.fx.symbolic_trace(copy.deepcopy(block))
    exported = torch.export.export(copy.deepcopy(block), (x,)).module()
    for other in (scripted, traced, exported):
        torch.testing.assert_close(other(x), wanted)


@pytest.mark.slow  # and not while coverage is measured: torch.compile reads the bytecode that this changes
@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
def test_a_block_can_be_compiled(train):
    block = random_block(SPEC, EVERYTHING, torch.float32).train(train)
    x = torch.randn(2, 8, 6, 6)
    compiled = torch.compile(copy.deepcopy(block), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), copy.deepcopy(block)(x))
