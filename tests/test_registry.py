"""Names, suggestions, and the bridge into timm."""

import pytest
import timm
import torch

import zoo
from zoo.registry import UnknownModelError


def test_names_are_listed_by_pattern():
    assert zoo.list_models("repvgg_b?g4") == ["repvgg_b1g4", "repvgg_b2g4", "repvgg_b3g4"]


def test_listing_takes_timms_arguments():
    assert zoo.list_models(["repvgg_a?", "repvgg_b0"], exclude_filters="*_a1") == [
        "repvgg_a0",
        "repvgg_a2",
        "repvgg_b0",
    ]
    assert set(zoo.list_models(module="mobileone")) == set(zoo.list_models("mobileone_*"))
    fetched = zoo.list_models(pretrained=True)
    assert "repvgg_a0" in fetched and "repghostnet_1.0x" in fetched and "dbb_resnet18" not in fetched
    listed = {name.partition(".")[0] for name in timm.list_models("zoo_*", pretrained=True)}
    assert listed == {zoo.model_entry(name).timm_name for name in fetched}


def test_an_unknown_name_lists_near_ones():
    with pytest.raises(UnknownModelError, match="unknown model 'repvgg_a9': did you mean repvgg_a"):
        zoo.create_model("repvgg_a9")


def test_an_unknown_name_of_timms_lists_near_ones():
    with pytest.raises(UnknownModelError, match="unknown model 'timm/resnet81': did you mean timm/resnet18"):
        zoo.create_model("timm/resnet81")


def test_a_name_is_registered_once():
    with pytest.raises(ValueError, match="'repvgg_a0' is registered already"):
        zoo.register_model(lambda **kwargs: None, name="repvgg_a0")


def test_a_name_in_the_builders_place_is_refused():
    with pytest.raises(ValueError, match=r"takes a builder, not 'mynet': write @zoo\.register_model\(name="):
        zoo.register_model("mynet")


def test_timm_creates_our_networks_and_keeps_its_own():
    ours = timm.create_model("zoo_repvgg_tiny", num_classes=7)
    assert type(ours).__module__ == "zoo.models.repvgg"
    assert ours(torch.randn(2, 3, 32, 32)).shape == (2, 7)
    assert type(timm.create_model("repvgg_a0", device="meta")).__module__ == "timm.models.byobnet"


def test_another_librarys_network_has_the_classes_asked_for_whatever_its_checkpoint_has(tmp_path):
    source = timm.create_model("test_resnet", num_classes=7)
    torch.save(source.state_dict(), tmp_path / "seven.pth")
    for wanted, found in ((3, 3), (None, 7)):
        network = zoo.create_model("timm/test_resnet", checkpoint=tmp_path / "seven.pth", num_classes=wanted)
        assert network.fc.weight.shape[0] == found
        assert torch.equal(network.conv1[0].weight, source.conv1[0].weight)


def test_every_registered_network_is_in_timm_under_its_own_name():
    theirs = set(timm.list_models("zoo_*"))
    assert {"zoo_" + name.replace(".", "_") for name in zoo.list_models()} <= theirs


def test_a_users_network_can_be_registered(monkeypatch):
    monkeypatch.setattr("zoo.registry._ENTRIES", {})

    @zoo.register_model
    def users_net(num_classes=1000, **kwargs):
        return torch.nn.Linear(2, num_classes)

    assert zoo.list_models() == ["users_net"]
    assert zoo.create_model("users_net", num_classes=3).out_features == 3


@pytest.mark.parametrize("deploy", [False, True])
def test_features_come_from_every_stage_in_both_structures(deploy):
    network = zoo.create_model("repvgg_tiny", features_only=True, deploy=deploy).eval()
    maps = network(torch.randn(1, 3, 32, 32))
    assert [tuple(m.shape[1:]) for m in maps] == [
        (24, 32, 32),
        (24, 16, 16),
        (48, 8, 8),
        (96, 4, 4),
        (192, 2, 2),
    ]


def test_out_indices_are_taps_or_how_many_of_the_last():
    for out_indices, channels in ((2, [96, 192]), ((1, -1), [24, 192])):
        network = zoo.create_model("repvgg_tiny", features_only=True, out_indices=out_indices, device="meta")
        assert [m.shape[1] for m in network(torch.empty(1, 3, 32, 32, device="meta"))] == channels
    for out_indices in (0, 6, (5,)):
        with pytest.raises(ValueError, match=r"^out_indices=.* out of range"):
            zoo.create_model("repvgg_tiny", features_only=True, out_indices=out_indices, device="meta")


def test_networks_of_timm_and_torchvision_are_named_by_library():
    assert type(zoo.create_model("timm/resnet18", num_classes=3, device="meta")).__module__ == "timm.models.resnet"
    assert zoo.create_model("torchvision/resnet18", num_classes=3).fc.out_features == 3


def test_a_network_for_other_channels_says_so_and_its_features_deploy():
    model = zoo.create_model("repvgg_tiny", in_chans=1, features_only=True).eval()
    assert model.pretrained_cfg["input_size"] == (1, 32, 32)
    assert [m.shape[1] for m in zoo.deploy(model)(torch.zeros(1, 1, 32, 32))] == [24, 24, 48, 96, 192]
    assert zoo.create_model("repvgg_tiny").pretrained_cfg["input_size"] == (3, 32, 32)


def test_an_empty_checkpoints_name_is_not_taken_for_none():
    with pytest.raises(zoo.CheckpointError):
        zoo.create_model("repvgg_tiny", checkpoint="")


def test_pretrained_and_checkpoint_exclude_each_other():
    with pytest.raises(ValueError, match="not both"):
        zoo.create_model("repvgg_tiny", pretrained=True, checkpoint="x.pth")


@pytest.mark.parametrize("output_stride, sizes", [(8, [64, 32, 16, 16, 16]), (16, [64, 32, 16, 8, 8])])
def test_output_stride_trades_stride_for_dilation(output_stride, sizes):
    network = zoo.create_model("repvgg_a0", features_only=True, output_stride=output_stride, device="meta")
    maps = network(torch.randn(1, 3, 128, 128, device="meta"))
    assert [m.shape[-1] for m in maps] == sizes


def test_pretrained_networks_of_other_libraries_are_theirs_to_fetch(monkeypatch):
    asked = {}
    monkeypatch.setattr("timm.create_model", lambda name, **kwargs: asked.update(name=name, **kwargs))
    zoo.create_model("timm/resnet18", pretrained=True)
    assert asked == {"name": "resnet18", "pretrained": True}
    monkeypatch.setattr("torchvision.models.get_model", lambda name, **kwargs: asked.update(name=name, **kwargs))
    zoo.create_model("torchvision/resnet18", pretrained=True)
    assert asked["weights"] == "DEFAULT"
