"""Networks whose code is easy to misread: what is folded of them computes what it computed."""

import pytest
import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d
from torch import fx, nn

from tests.surgery.test_regions import IMAGES, Net, folded, layers
from zoo.surgery.fold_regions import fold_regions


def scale() -> nn.Parameter:
    return nn.Parameter(torch.rand(4, 1, 1))


def kernel() -> nn.Parameter:
    return nn.Parameter(torch.randn(4, 4, 3, 3))


def test_regions_without_a_layer_of_their_own_take_free_names():
    model = Net(
        lambda m, x: m.linear(F.relu(F.conv2d(F.relu(F.conv2d(x, m.k) * m.a), m.l) * m.b).mean((2, 3))),
        k=kernel(),
        l=kernel(),
        a=scale(),
        b=scale(),
        linear=nn.Linear(4, 2),
    )
    assert sorted(layers(folded(model))) == ["Conv2d", "Conv2d", "Linear"]


def test_a_forward_that_cannot_be_rewritten_keeps_its_layers():
    model = Net(
        lambda m, x: F.relu(m.a(x) + m.b(x)) * torch.tensor(0.7), a=nn.Conv2d(4, 4, 3, padding=1), b=nn.Conv2d(4, 4, 1)
    )
    assert layers(folded(model)) == ["Conv2d", "Conv2d"]


class Untraced(nn.Module):
    """Runs what it is given, by a branch on values."""

    def __init__(self, body: nn.Module):
        super().__init__()
        self.body = body

    def forward(self, x):
        return self.body(x) if x.sum() == x.sum() else x


def test_a_layer_shared_by_two_parents_is_left():
    shared = nn.Conv2d(4, 4, 1)
    model = nn.Sequential(
        *(Untraced(nn.Sequential(shared, nn.BatchNorm2d(4), nn.ReLU())) for _ in range(2)),
    )
    assert layers(folded(model)).count("BatchNorm2d") == 2


def test_a_layer_whose_weight_is_read_elsewhere_is_left():
    model = Net(lambda m, x: m.bn(m.a(x)) * F.conv2d(F.relu(x), m.a.weight), a=nn.Conv2d(4, 4, 1), bn=nn.BatchNorm2d(4))
    assert layers(folded(model)) == ["Conv2d", "BatchNorm2d"]


def test_a_norm_whose_weight_is_read_elsewhere_keeps_it():
    model = Net(lambda m, x: m.bn(m.a(x)) * m.bn.weight.view(1, -1, 1, 1), a=nn.Conv2d(4, 4, 1), bn=BatchNormAct2d(4))
    assert torch.equal(folded(model).bn.weight, model.bn.weight)


def test_a_divisor_that_is_a_whole_number_divides_in_double_precision():
    assert layers(folded(Net(lambda m, x: m.a(x) / 3, a=nn.Conv2d(4, 4, 1)))) == ["Conv2d"]


def branches() -> dict[str, nn.Module]:
    return {"a": nn.Conv2d(4, 4, 1), "b": nn.Conv2d(4, 4, 3, padding=1)}


def test_a_module_that_returns_a_list_still_does():
    part = Net(lambda m, x: [m.a(x) + m.b(x)], **branches())
    assert layers(folded(Net(lambda m, x: F.relu(m.part(x)[0]), part=part))) == ["Conv2d"]


def test_a_module_that_takes_a_list_still_does():
    part = Net(lambda m, x: m.a(x[0]) + m.b(x[0]), **branches())
    assert layers(folded(Net(lambda m, x: F.relu(m.part([x, x])), part=part))) == ["Conv2d", "Conv2d"]


def test_a_constant_that_repeats_the_map_is_left():
    model = Net(lambda m, x: (F.relu(m.a(x)) + m.shift) * 2, a=nn.Conv2d(4, 1, 1), shift=scale())
    folded(model, fold_all=True)


def test_a_constant_that_adds_an_axis_is_left():
    shift = nn.Parameter(torch.rand(1, 1, 4))
    model = Net(lambda m, x: F.relu(m.a(x.mean((2, 3))) + m.shift), a=nn.Linear(4, 4), shift=shift)
    folded(model, fold_all=True)


def reflecting() -> nn.Conv2d:
    return nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")


def test_a_layer_with_its_own_padding_is_not_given_another_stride_or_border():
    strided = Net(lambda m, x: m.b(m.a(x)), a=reflecting(), b=nn.Conv2d(4, 4, 1, stride=2))
    assert layers(folded(strided, fold_all=True)) == ["Conv2d", "Conv2d"]
    padded = Net(
        lambda m, x: F.pad(m.a(x), (1, 1, 1, 1)) * m.scale,
        a=nn.Conv2d(4, 4, 1, padding=1, padding_mode="reflect", bias=False),
        scale=scale(),
    )
    folded(padded, fold_all=True)


def test_a_layer_with_its_own_padding_takes_up_a_scale():
    model = Net(lambda m, x: F.relu(m.a(x) * m.scale + m.shift), a=reflecting(), scale=scale(), shift=scale())
    assert [name for name, _ in folded(model).named_parameters()] == ["a.weight", "a.bias"]


def test_functions_are_known_by_what_they_are_not_by_their_name():
    norm = nn.BatchNorm2d(4)

    def run(m, x):
        n = m.norm
        return torch.batch_norm(m.a(x), n.weight, n.bias, n.running_mean, n.running_var, False, 0.1, 1e-5, False)

    folded(Net(run, a=nn.Conv2d(4, 4, 1), norm=norm))
    folded(Net(lambda m, x: pad(m.a(x), (1, 1, 1, 1)) * m.scale, a=nn.Conv2d(4, 4, 1, bias=False), scale=scale()))


@fx.wrap
def pad(x, sides):
    return F.pad(x, sides, mode="reflect")


def subclass(kind: type[nn.Module], *args) -> nn.Module:
    """A layer of a kind with a forward of its own, which does not trace."""

    class Own(kind):
        def forward(self, x):
            return super().forward(x).abs() if x.sum() == x.sum() else x

    return Own(*args)


@pytest.mark.parametrize(
    "part",
    [
        lambda: subclass(nn.AvgPool2d, 2),
        lambda: subclass(nn.Sequential, nn.Conv2d(4, 4, 1)),
        lambda: subclass(nn.Identity),
        lambda: subclass(nn.Dropout),
        lambda: subclass(nn.ZeroPad2d, 1),
    ],
)
def test_a_subclass_with_a_forward_of_its_own_is_left(part):
    model = nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), part(), nn.Conv2d(4, 4, 1, bias=False))
    folded(model, fold_all=True)


def test_what_is_left_names_no_activation():
    act, twice = nn.ReLU(), nn.Conv2d(4, 4, 1)
    model = nn.Sequential(nn.Conv2d(4, 4, 1), act, twice, act, twice, act).eval()
    assert list(fold_regions(model, IMAGES.float())[2]) == ["2"]


def test_an_identity_with_a_hook_is_left():
    model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Identity(), nn.Conv2d(4, 4, 1)).double().eval()
    model[1].register_forward_hook(lambda module, args, output: output.abs())
    assert layers(folded(model, fold_all=True)) == ["Conv2d", "Conv2d"]


def test_scaled_vectors_have_no_layer_of_their_own():
    shift = nn.Parameter(torch.rand(4))
    folded(Net(lambda m, x: m.bn(F.relu(x.mean((2, 3))) * m.shift + m.shift), bn=nn.BatchNorm1d(4), shift=shift))


LAST, FIRST, TURNED = (0, 2, 3, 1), (0, 3, 1, 2), (0, 3, 2, 1)
MOVES = {
    # layers: (what runs, kinds of the layers left)
    "linear bn": (lambda m, x: m.bn(m.linear(x.relu().permute(LAST)).permute(FIRST)), ["Linear"]),
    "bn linear": (lambda m, x: m.linear(m.bn(x).permute(*LAST)).relu(), ["Conv2d"]),
    "conv linear": (lambda m, x: m.linear(m.conv(x).permute(LAST)), ["Conv2d"]),
    "linear scale": (lambda m, x: m.linear(x.relu().permute(LAST)).permute(FIRST) * m.scale, ["Linear"]),
    "linear conv": (lambda m, x: m.conv(m.linear(x.permute(LAST)).permute(FIRST)), ["Linear", "Conv2d"]),
    "conv linear bn": (lambda m, x: m.bn(m.linear(m.conv(x).permute(LAST)).permute(FIRST)), ["Conv2d"]),
    "linear": (lambda m, x: x + m.linear(x.permute(LAST)).permute(FIRST), ["Linear"]),
    "bn linear turned": (lambda m, x: m.bn(m.linear(x.permute(TURNED)).permute(TURNED)), ["Linear", "BatchNorm2d"]),
}


@pytest.mark.parametrize("used", MOVES)
def test_channels_that_move_to_another_axis(used):
    run, kinds = MOVES[used]
    parts = {
        "linear": nn.Linear(4, 4),
        "bn": nn.BatchNorm2d(4),
        "conv": nn.Conv2d(4, 4, 3, padding=1),
        "scale": scale(),
    }
    model = Net(run, **{name: part for name, part in parts.items() if name in used})
    assert layers(folded(model)) == kinds


@pytest.mark.parametrize("dim, kinds", [(1, ["Linear", "Linear"]), (3, ["Linear"])])
def test_maps_with_channels_last_are_one_where_they_are_joined_along_these(dim, kinds):
    def run(m, x):
        x = x.permute(LAST)
        return torch.cat([m.a(x), m.b(x)], dim)

    assert layers(folded(Net(run, a=nn.Linear(4, 4), b=nn.Linear(4, 4)))) == kinds


def test_dropout_that_is_active_in_eval_mode_too_is_left():
    model = Net(lambda m, x: m.bn(F.dropout(m.a(x))), a=nn.Conv2d(4, 4, 1), bn=nn.BatchNorm2d(4)).double().eval()
    assert layers(fold_regions(model, IMAGES)[0]) == ["Conv2d", "BatchNorm2d"]


def test_pooling_which_has_no_weights_is_given_none():
    model = Net(lambda m, x: F.relu(m.pool(F.relu(x).contiguous())), pool=nn.AvgPool2d(3, 2, 1))
    assert layers(folded(model)) == ["AvgPool2d"]


def test_a_norm_goes_from_a_chain_that_its_own_parts_belong_to():
    model = nn.Sequential(nn.Conv2d(4, 8, 1), nn.Conv2d(8, 4, 1), BatchNormAct2d(4))
    assert layers(folded(model)) == ["Conv2d", "ReLU"]
