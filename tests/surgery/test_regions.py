"""Linear regions: every network computes what it computed, and no non-linear part of one is folded."""

import copy
import itertools
import random

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.support.blocks import randomise
from zoo.compare import relative_error
from zoo.surgery.fold_regions import fold_regions

IMAGES = torch.randn(2, 4, 13, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def folded(model: nn.Module, images: Tensor = IMAGES, **options) -> nn.Module:
    """The network folded, proven here end to end in float64."""
    model = randomise(model).double().eval()
    result, _, _ = fold_regions(copy.deepcopy(model), images, **options)
    with torch.no_grad():
        assert relative_error(result(images.clone()), model(images.clone())) <= 1e-9
    return result


def layers(model: nn.Module) -> list[str]:
    """Kinds of the layers that compute something."""
    kinds = [type(m).__name__ for m in model.modules() if not list(m.children())]
    return [kind for kind in kinds if kind not in ("Identity", "Dropout")]


class Net(nn.Module):
    """A network from a function of its layers and the image."""

    def __init__(self, run, **modules):
        super().__init__()
        self.run = run
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x):
        return self.run(self, x)


def conv(size: int = 3, groups: int = 1, **options) -> nn.Conv2d:
    options = {"padding": size // 2, "bias": False} | options
    return nn.Conv2d(4, 4, size, groups=groups, **options)


def conv_bn(size: int = 3, groups: int = 1, **options) -> nn.Sequential:
    return nn.Sequential(conv(size, groups, **options), nn.BatchNorm2d(4))


CASES = {
    # name: (network, kinds of the layers left)
    "a sum of branches": (
        lambda: Net(lambda m, x: m.a(x) + m.b(x) + x, a=conv_bn(), b=conv_bn(1)),
        ["Conv2d"],
    ),
    "BatchNorm after a sum (QARepVGG, RepViT)": (
        lambda: Net(lambda m, x: m.bn(m.a(x) + m.b(x) + x), a=conv_bn(3, 4), b=conv(1, 4), bn=nn.BatchNorm2d(4)),
        ["Conv2d"],
    ),
    "a large kernel and dilated small ones (UniRepLKNet)": (
        lambda: Net(
            lambda m, x: m.large(x) + m.a(x) + m.b(x),
            large=conv_bn(7, 4),
            a=conv_bn(3, 4, dilation=3, padding=3),
            b=conv_bn(3, 4, dilation=2, padding=2),
        ),
        ["Conv2d"],
    ),
    "scale, constant and residual (FastViT's layer scale)": (
        lambda: Net(
            lambda m, x: x + m.gamma * (m.a(x) - m.bn(x)) - 0.5,
            a=conv_bn(),
            bn=nn.BatchNorm2d(4),
            gamma=nn.Parameter(torch.rand(4, 1, 1)),
        ),
        ["Conv2d"],
    ),
    "slices and concatenation (RepNeXt)": (
        lambda: Net(lambda m, x: m.mix(torch.cat([m.a(x)[:, :2], x[:, 2:]], 1)), a=conv_bn(), mix=conv_bn(1)),
        ["Conv2d"],
    ),
    "a fixed kernel (ECBSR)": (
        lambda: Net(
            lambda m, x: m.a(x) + F.conv2d(x, m.scale * m.sobel, m.bias, padding=1, groups=4),
            a=conv(bias=True),
            scale=nn.Parameter(torch.rand(4, 1, 1, 1)),
            bias=nn.Parameter(torch.rand(4)),
            sobel=nn.Parameter(torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]]).expand(4, 1, 3, 3).clone()),
        ),
        ["Conv2d"],
    ),
    "BatchNorm before a convolution without padding": (
        lambda: Net(lambda m, x: m.a(m.bn(x)), a=conv(1), bn=nn.BatchNorm2d(4)),
        ["Conv2d"],
    ),
    "linear layers over tokens (LeViT)": (
        lambda: Net(
            lambda m, x: m.bn((t := m.a(x.flatten(2).transpose(1, 2))).flatten(0, 1)).reshape_as(t),
            a=nn.Linear(4, 6),
            bn=nn.BatchNorm1d(6),
        ),
        ["Linear"],
    ),
    "a padded map between": (
        lambda: Net(lambda m, x: m.b(m.a(x)), a=conv_bn(1), b=conv_bn(3)),
        ["Conv2d", "Conv2d"],
    ),
    "a bottleneck, which costs less than its product": (
        lambda: nn.Sequential(nn.Conv2d(4, 1, 1), nn.BatchNorm2d(1), nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4)),
        ["Conv2d", "Conv2d"],
    ),
    "two wide products, which cost more than theirs": (
        lambda: nn.Sequential(nn.Conv2d(4, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4)),
        ["Conv2d"],
    ),
    "a map that is read twice": (
        lambda: Net(lambda m, x: m.bn(y := m.a(x)) * y, a=conv(), bn=nn.BatchNorm2d(4)),
        ["Conv2d", "BatchNorm2d"],
    ),
    "a map changed in place after it is read": (
        lambda: Net(
            lambda m, x: (y := m.a(x), z := m.bn(y), F.relu(y, inplace=True), z + y)[-1], a=conv(), bn=nn.BatchNorm2d(4)
        ),
        ["Conv2d", "BatchNorm2d"],
    ),
    "an input changed in place between": (
        lambda: Net(lambda m, x: (y := x * x, z := m.a(y), y.mul_(3), m.bn(z))[-1], a=conv(), bn=nn.BatchNorm2d(4)),
        ["Conv2d", "BatchNorm2d"],
    ),
    "a part of an input changed in place between": (
        lambda: Net(
            lambda m, x: (y := x * x, p := y[:, 1:], z := m.a(y), p.mul_(3), m.bn(z))[-1],
            a=conv(),
            bn=nn.BatchNorm2d(4),
        ),
        ["Conv2d", "BatchNorm2d"],
    ),
    "a layer called twice": (
        lambda: Net(lambda m, x: m.bn(m.a(m.a(x))), a=conv(), bn=nn.BatchNorm2d(4)),
        ["Conv2d", "BatchNorm2d"],
    ),
    "pooling that drops a row beside one that does not": (
        lambda: Net(lambda m, x: m.a(x)[:, :, :6] + m.b(x), a=conv(1, stride=2), b=nn.AvgPool2d(2, 2)),
        ["Conv2d", "AvgPool2d"],
    ),
    "another branch for other values": (lambda: Net(lambda m, x: m.f(x), f=Flips()), ["Conv2d"]),
    "statistics of the batch": (
        lambda: nn.Sequential(conv(), nn.BatchNorm2d(4, track_running_stats=False)),
        ["Conv2d", "BatchNorm2d"],
    ),
    "a reflected border": (
        lambda: nn.Sequential(conv(padding_mode="reflect"), nn.BatchNorm2d(4)),
        ["Conv2d"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_region_is_folded_where_it_is_one(name):
    build, kinds = CASES[name]
    torch.manual_seed(0)
    model = build()
    before = [p.numel() for p in model.parameters()]
    after = folded(model)
    assert layers(after) == kinds
    assert sum(p.numel() for p in after.parameters()) <= sum(before) + 4  # a bias


def test_fold_all_folds_where_parameters_grow_too():
    bottleneck = nn.Sequential(nn.Conv2d(4, 1, 1), nn.BatchNorm2d(1), nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, (2, 3)))
    assert layers(folded(bottleneck)) == ["Conv2d"] * 2  # the last two have 132 weights, their product 80
    (conv,) = [m for m in folded(bottleneck, fold_all=True).modules() if isinstance(m, nn.Conv2d)]
    assert conv.kernel_size == (4, 5)


def test_a_region_around_a_module_that_was_rewritten_is_folded_in_another_pass():
    inner = Net(lambda m, x: F.relu(m.a(x) + m.b(x)), a=conv(), b=conv(1))
    outer = Net(lambda m, x: m.c(y := m.inner(x)) + m.d(y), inner=inner, c=conv(), d=conv(1))
    assert layers(folded(outer)) == ["Conv2d"] * 2


class Flips(nn.Module):
    """Branches on the values of its input."""

    def __init__(self):
        super().__init__()
        self.body = conv_bn()

    def forward(self, x):
        return self.body(x) if x.mean() > 0 else self.body(-x)


class Program(nn.Module):
    """A random program of linear and other operations; every value it makes may be read again, or changed in place."""

    def __init__(self, seed: int, depth: int = 0):
        super().__init__()
        self.random = random.Random(seed)
        self.parts = nn.ModuleList()
        self.steps: list[tuple] = []
        count = self.random.randint(3, 9) if not depth else self.random.randint(2, 4)
        for _ in range(count):
            self.steps.append(
                (self.random.choice(OPERATIONS), self.random.random(), self.random.random(), len(self.parts))
            )
            self.parts.append(self._part(self.steps[-1][0], depth))
        self.inner = bool(depth)

    def _part(self, kind: str, depth: int) -> nn.Module:
        rng = self.random
        size, groups, bias = rng.choice((1, 1, 3, (1, 3), 2)), rng.choice((1, 1, 2, 4)), rng.random() < 0.3
        padding = 0 if rng.random() < 0.5 or isinstance(size, tuple) else size // 2
        layer = nn.Conv2d(4, 4, size, groups=groups, bias=bias, padding=padding, stride=rng.choice((1, 1, 1, 2)))
        if kind == "conv":
            return layer
        if kind == "conv_bn":
            return nn.Sequential(layer, nn.BatchNorm2d(4))
        if kind == "norm_act":
            return timm.layers.BatchNormAct2d(4, act_layer=rng.choice((nn.ReLU, nn.Identity)))
        if kind == "program" and depth < 2:
            return Program(rng.randrange(10**9), depth + 1)
        made = {"bn": nn.BatchNorm2d(4), "relu": nn.ReLU(inplace=rng.random() < 0.5), "flips": Flips()}
        made |= {"pool": nn.AvgPool2d(2, 1), "shared": self.parts[0] if len(self.parts) else nn.Identity()}
        return made.get(kind, nn.Identity())

    def forward(self, x):
        values = [x]
        for kind, which, other, index in self.steps:
            value = values[int(which * len(values))] if which < 0.4 else values[-1]
            second = values[int(other * len(values))]
            part = self.parts[index]
            if kind in ("add", "iadd", "sub"):
                if second.shape == value.shape:
                    value = value + second if kind == "add" else value - second if kind == "sub" else value.add_(second)
            elif kind == "scale":
                value = value * (other + 0.5) - 0.3
            elif kind == "slices":
                a, b = value[:, :1], value[:, 1:]
                value = torch.cat([b, a * 2], 1)
            elif kind == "chunks":
                a, b = value.chunk(2, 1)
                value = torch.cat([b, F.relu(a) if other < 0.3 else a], dim=1)
            elif kind == "pad":
                value = F.pad(value, (1, 1, 1, 1))
            else:
                value = part(value)
            values.append(value)
        return values[-1] if self.inner else tuple(values[-3:])


LINEAR = ["conv", "conv_bn", "bn", "norm_act", "add", "add", "sub", "scale", "slices", "chunks", "pad", "pool"]
OPERATIONS = [*LINEAR, *LINEAR, "relu", "iadd", "flips", "shared", "program", "program"]


@pytest.mark.parametrize("batch", range(20))
def test_random_programs_compute_what_they_computed(batch):
    """25 programs each; a convolution larger than its map, or a constant of one pixel, is none."""
    ran = 0
    for seed in itertools.count(1000 * batch):
        torch.manual_seed(seed)
        model = randomise(Program(seed)).double().eval()
        try:
            with torch.no_grad():
                wanted = model(IMAGES.clone())
        except RuntimeError:
            continue
        result, _, _ = fold_regions(copy.deepcopy(model), IMAGES.clone(), fold_all=seed % 3 == 0)
        with torch.no_grad():
            got = result(IMAGES.clone())
            assert relative_error(got, wanted) <= 1e-9, seed
            assert relative_error(result(-2 * IMAGES), model(-2 * IMAGES)) <= 1e-9, seed
            larger = F.pad(IMAGES, (3, 4, 5, 2), mode="reflect")
            assert relative_error(result(larger.clone()), model(larger.clone())) <= 1e-9, seed
        if (ran := ran + 1) == 25:
            break
