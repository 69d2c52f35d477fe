"""Deploying whole networks: proof, what is folded, what is refused, and the protocols of timm and torch."""

import copy

import pytest
import timm
import torch
from timm.layers import BatchNormAct2d
from timm.utils import freeze, reparameterize_model
from torch import nn

import zoo
from tests.support.blocks import NormReLU, OutputToo, fill_convs, randomise
from zoo.checkpoints import save_deployed
from zoo.compare import relative_error
from zoo.reparam.block import MultiBranchConv2d
from zoo.reparam.branches import build_block
from zoo.reparam.spec import ConvSpec
from zoo.surgery.deploy import TrainingOnly
from zoo.surgery.pairs import conv_norm_pairs
from zoo.surgery.verify import BLOCK_TOLERANCE

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def tiny(**kwargs) -> nn.Module:
    return randomise(zoo.create_model("repvgg_tiny", **kwargs)).eval()


def test_deploying_proves_and_reports():
    model = tiny()
    deployed, report = zoo.deploy_with_report(model)
    assert zoo.is_deployed(deployed) and not zoo.is_deployed(model)
    assert len(report.blocks) == 8
    assert all(block.relative_error <= BLOCK_TOLERANCE for block in report.blocks)
    assert report.relative_error <= 10 * report.noise_floor
    assert report.params == (651736, 603808)
    assert report.input_size == [3, 32, 32]
    assert relative_error(deployed(IMAGES), model(IMAGES)) < 1e-5
    assert "stages.2.1.conv" in report.table() and "kxk + 1x1 + identity" in report.table()


def test_deploying_leaves_the_network_as_it_was():
    model = tiny()
    before = copy.deepcopy(model.state_dict())
    zoo.deploy(model)
    after = model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)


def test_a_deployed_network_is_made_of_stock_layers():
    deployed = zoo.deploy(tiny())
    assert not [m for m in deployed.modules() if type(m).__module__.startswith("zoo.reparam")]
    assert not [m for m in deployed.modules() if isinstance(m, nn.BatchNorm2d)]


def test_deploying_in_training_mode_is_refused():
    with pytest.raises(ValueError, match=r"RepVGG is in training mode.*model\.eval\(\)"):
        zoo.deploy(tiny().train())


def test_deploying_twice_changes_nothing():
    once = zoo.deploy(tiny())
    twice = zoo.deploy(once)
    assert all(torch.equal(a, b) for a, b in zip(once.state_dict().values(), twice.state_dict().values(), strict=True))


def test_a_block_that_folds_wrongly_is_named(monkeypatch):
    model = tiny()
    correct = MultiBranchConv2d.equivalent_kernel

    def wrong(self):
        kernel = correct(self)
        return type(kernel)(kernel.weight * (1 + 1e-6), kernel.bias, kernel.stride, kernel.padding)

    monkeypatch.setattr(MultiBranchConv2d, "equivalent_kernel", wrong)
    with pytest.raises(zoo.EquivalenceError, match=r"block 'stem\.conv'"):
        zoo.deploy(model)


def test_a_network_that_differs_outside_the_blocks_is_caught(monkeypatch):
    monkeypatch.setattr("zoo.surgery.rewrite.activation_of", lambda norm: nn.Identity())
    model = nn.Sequential(nn.Conv2d(3, 8, 3), randomise(BatchNormAct2d(8))).eval()
    with pytest.raises(zoo.EquivalenceError, match="off by"):
        zoo.deploy(model, IMAGES)


def test_a_block_that_is_the_whole_network_deploys():
    block = tiny().stem.conv
    deployed = zoo.deploy(block, IMAGES)
    assert type(deployed) is nn.Conv2d
    assert relative_error(deployed(IMAGES), block(IMAGES)) < 1e-5


def test_timms_reparameterize_gives_our_deployed_network():
    model = tiny()
    wanted = zoo.deploy(model)(IMAGES)
    theirs = reparameterize_model(copy.deepcopy(model))
    assert zoo.is_deployed(theirs)
    assert torch.equal(theirs(IMAGES), wanted)


@pytest.mark.parametrize("dtype, tolerance", [(torch.bfloat16, 0.05), (torch.float16, 0.01)])
def test_half_precision_networks_deploy_in_their_dtype(dtype, tolerance):
    model = tiny().to(dtype)
    deployed, report = zoo.deploy_with_report(model)
    assert {p.dtype for p in deployed.parameters()} == {dtype}
    assert all(block.relative_error < 1e-12 for block in report.blocks)
    assert relative_error(deployed(IMAGES.to(dtype)), copy.deepcopy(model).double()(IMAGES.double())) < tolerance


@pytest.mark.parametrize("convert", [nn.SyncBatchNorm.convert_sync_batchnorm, freeze], ids=["sync", "frozen"])
def test_synchronised_and_frozen_networks_deploy(convert):
    model = tiny()
    wanted = model(IMAGES)
    converted = convert(model)
    converted = model if converted is None else converted
    assert relative_error(zoo.deploy(converted.eval())(IMAGES), wanted) < 1e-5


def test_channels_last_networks_deploy():
    model = tiny().to(memory_format=torch.channels_last)
    deployed = zoo.deploy(model)
    images = IMAGES.to(memory_format=torch.channels_last)
    assert relative_error(deployed(images), model(images)) < 1e-5


def test_deploying_empties_what_only_training_uses():
    class WithAuxiliary(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.auxiliary = nn.Conv2d(3, 4, 3), TrainingOnly([nn.Linear(4, 2)])

        def forward(self, x):
            return self.body(x)

    deployed = zoo.deploy(WithAuxiliary().eval(), IMAGES)
    assert list(deployed.state_dict()) == ["body.weight", "body.bias"]


def test_the_first_convs_name_follows_the_deployment():
    assert zoo.deploy(tiny()).pretrained_cfg["first_conv"] == "stem.conv"
    assert len(tiny().pretrained_cfg["first_conv"]) == 2


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0", "densenet121", "ghostnet_050", "hrnet_w18_small"])
def test_batchnorms_outside_blocks_are_folded_where_a_conv_feeds_them(name):
    model = fill_convs(randomise(timm.create_model(name))).eval()
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    images = torch.randn(1, 3, 64, 64)
    deployed, report = zoo.deploy_with_report(model, images)
    # DenseNet's pre-activation norms read concatenations: only those between its two convolutions are fed by one.
    assert report.folded_norms == (59 if name == "densenet121" else len(norms))
    assert sum(isinstance(m, nn.BatchNorm2d) for m in deployed.modules()) == len(norms) - report.folded_norms


class Odd(nn.Module):
    """A convolution whose output is read twice, one that is called twice, and one that is neither."""

    def __init__(self):
        super().__init__()
        self.shared, self.read_twice, self.plain = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
        self.norm1, self.norm2, self.norm3 = (nn.BatchNorm2d(3) for _ in range(3))

    def forward(self, x):
        x = self.norm1(self.shared(self.shared(x)))
        y = self.read_twice(x)
        x = self.norm2(y) + y
        return self.norm3(self.plain(x))


def test_only_a_conv_that_the_norm_alone_reads_is_paired():
    assert conv_norm_pairs(Odd().eval(), IMAGES) == {"plain": "norm3"}


def test_a_network_that_does_not_run_on_the_example_is_refused():
    with pytest.raises(ValueError, match="does not run on an input of"):
        conv_norm_pairs(nn.Sequential(nn.Conv2d(4, 4, 3)), IMAGES)


class Aliased(nn.Module):
    """A block, and a convolution with its BatchNorm, that are each known by two names and run by the second."""

    def __init__(self):
        super().__init__()
        self.rep = build_block(ConvSpec(in_channels=3, out_channels=3, kernel_size=3, padding=1))
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.layers = nn.Sequential(self.rep, nn.ReLU(), self.conv, self.norm)

    def forward(self, x):
        return self.layers(x)


def test_a_module_of_several_names_deploys_under_each():
    model = randomise(Aliased()).eval()
    deployed, report = zoo.deploy_with_report(model, IMAGES)
    assert zoo.is_deployed(deployed) and report.folded_norms == 1
    assert [type(layer) for layer in deployed.layers] == [nn.Conv2d, nn.ReLU, nn.Conv2d, nn.Identity]
    assert deployed.rep is deployed.layers[0] and deployed.conv is deployed.layers[2]
    assert relative_error(deployed(IMAGES), model(IMAGES)) < 1e-5


def test_blocks_that_only_training_uses_are_emptied_with_the_rest():
    model = tiny()
    model.auxiliary = TrainingOnly([build_block(ConvSpec(in_channels=3, out_channels=3, kernel_size=3))])
    deployed, report = zoo.deploy_with_report(model.eval())
    assert len(deployed.auxiliary) == 0 and len(report.blocks) == 8


@pytest.mark.parametrize(
    "pair",
    [
        nn.Sequential(nn.Conv2d(3, 4, 3), NormReLU(4)),
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)),
        nn.Sequential(timm.layers.StdConv2d(3, 4, 3), nn.BatchNorm2d(4)),
        nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4)),
        OutputToo(),
    ],
    ids=["own forward", "batch statistics", "standardised", "weight norm", "output"],
)
def test_a_pair_that_cannot_be_folded_is_left(pair):
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), pair)
    randomise(model).eval()
    deployed, report = zoo.deploy_with_report(model, IMAGES)
    assert report.folded_norms == 1
    assert relative_error(deployed(IMAGES), model(IMAGES)) < 1e-5


def test_a_convolution_that_pads_by_the_size_of_its_input_is_folded():
    model = randomise(nn.Sequential(timm.layers.Conv2dSame(3, 4, 3, stride=2), nn.BatchNorm2d(4))).eval()
    assert zoo.deploy_with_report(model, IMAGES)[1].folded_norms == 1


class Branching(nn.Module):
    """Asks for values, which the meta device has none of, and keeps a tensor that is no buffer."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.shift = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), torch.ones(4, 1, 1)

    def forward(self, x):
        x = self.bn(self.conv(x)) + self.shift
        return x if x.sum() > 0 else -x


def test_a_network_that_branches_on_its_values_is_left_with_the_reason_and_counted():
    _, report = zoo.deploy_with_report(randomise(Branching()).eval(), IMAGES)
    assert report.folded_norms == 0 and "control flow" in report.left[""]
    assert report.params == (3 * 4 * 9 + 4 + 8, 3 * 4 * 9 + 4 + 8)
    assert report.macs == (27 * 4 * 900, 27 * 4 * 900)


def test_a_network_without_parameters_deploys():
    _, report = zoo.deploy_with_report(nn.Sequential(nn.ReLU()).eval())
    assert report.params == (0, 0) and report.relative_error == 0


@pytest.mark.parametrize("error", [AssertionError("size"), TypeError("type"), ValueError("value"), IndexError("index")])
def test_whatever_a_network_raises_for_its_input_is_one_message(error):
    class Picky(nn.Module):
        def forward(self, x):
            raise error

    with pytest.raises(
        ValueError, match=rf"Picky does not run on an input of \(2, 3, 32, 32\): {error}; pass `example=`"
    ):
        conv_norm_pairs(Picky(), IMAGES)


def test_what_only_training_uses_can_be_emptied():
    parts = TrainingOnly([nn.Linear(2, 2), nn.ReLU()])
    parts.clear()
    assert len(parts) == 0 and not parts.state_dict()


def test_a_file_of_a_rewritten_network_loads_again(tmp_path):
    """LeViT's attention reads indices that no file holds, and its forwards are rewritten."""
    torch.manual_seed(0)
    model = randomise(timm.create_model("levit_128s")).eval()
    folded = zoo.fold(model, verify=False)
    save_deployed(folded, tmp_path / "folded.safetensors", "timm/levit_128s")
    loaded = zoo.create_model("timm/levit_128s", checkpoint=tmp_path / "folded.safetensors")
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        assert torch.equal(loaded(images), folded(images))


def test_a_batch_norm_that_no_region_takes_up_is_left_with_the_reason():
    body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1))
    _, report = zoo.deploy_with_report(body.eval(), torch.randn(1, 3, 8, 8))
    assert list(report.left) == ["2"] and "zero-padded" in report.left["2"]
    assert "left: 2: " in report.table()
