"""Published weights: fetched from the hub, or an error that says where they are."""

import shutil
import urllib.error

import pytest
import timm
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import save_file

import zoo
from tests.support import reference
from tests.support.blocks import randomise
from zoo.checkpoints import CheckpointError


def refusal(model: str) -> str:
    """The one line that says why weights cannot be had."""
    with pytest.raises(CheckpointError) as caught:
        zoo.create_model(model, pretrained=True)
    assert "\n" not in str(caught.value) and caught.value.__cause__ is caught.value.__context__ is None
    return str(caught.value)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [("repvgg_a0", "repvgg_a0"), ("repghostnet_0.5x", "repghostnet_050"), ("mobileone_s0", "mobileone_s0")],
)
def test_pretrained_weights_come_from_timms_hub(ours, theirs, tmp_path, monkeypatch):
    peer = randomise(timm.create_model(theirs)).eval()
    save_file(peer.state_dict(), tmp_path / "hub.safetensors")
    asked = []

    def download(repo_id, filename):
        asked.append((repo_id, filename))
        return str(shutil.copy(tmp_path / "hub.safetensors", tmp_path / filename))

    monkeypatch.setattr("zoo.checkpoints.pretrained.hf_hub_download", download)
    monkeypatch.setattr("zoo.checkpoints.pretrained.check_reachable", lambda url: None)
    monkeypatch.setattr("zoo.checkpoints.pretrained.try_to_load_from_cache", lambda *_: None)
    network = zoo.create_model(ours, pretrained=True)
    tag = {"repvgg_a0": "rvgg_in1k", "mobileone_s0": "apple_in1k"}.get(ours, "in1k")
    assert asked == [(f"timm/{theirs}.{tag}", "model.safetensors")]
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert reference.relative_error(network.eval()(images), peer(images)) < 1e-5


@pytest.mark.parametrize(
    "error", [LocalEntryNotFoundError("cannot find\nit in the cache"), OSError("no route to host")]
)
def test_being_offline_is_one_line_with_a_remedy(error, monkeypatch):
    def download(repo_id, filename):
        raise error

    monkeypatch.setattr("zoo.checkpoints.pretrained.hf_hub_download", download)
    monkeypatch.setattr("zoo.checkpoints.pretrained.check_reachable", lambda url: None)
    monkeypatch.setattr("zoo.checkpoints.pretrained.try_to_load_from_cache", lambda *_: None)
    message = refusal("repvgg_a0")
    assert message.startswith("repvgg_a0: model.safetensors of timm/repvgg_a0.rvgg_in1k could not be fetched")
    assert "https://huggingface.co/timm/repvgg_a0.rvgg_in1k/resolve/main/model.safetensors" in message
    assert "--checkpoint" in message


def test_a_server_that_cannot_be_reached_is_asked_once(monkeypatch):
    def open_nothing(request, timeout):
        assert timeout <= 5
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", open_nothing)
    monkeypatch.setattr("zoo.checkpoints.pretrained.try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr("zoo.checkpoints.pretrained.hf_hub_download", lambda *_: pytest.fail("tried for half a minute"))
    assert "no route to host" in refusal("repvgg_a0")


def test_weights_in_the_cache_need_no_network(monkeypatch, tmp_path):
    peer = randomise(timm.create_model("repvgg_a0"))
    save_file(peer.state_dict(), tmp_path / "model.safetensors")
    monkeypatch.setattr(
        "zoo.checkpoints.pretrained.try_to_load_from_cache", lambda *_: str(tmp_path / "model.safetensors")
    )
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: pytest.fail("asked a server"))
    assert zoo.create_model("repvgg_a0", pretrained=True).num_classes == 1000


def test_a_plain_networks_weights_are_other_libraries():
    assert refusal("resnet18").endswith("other libraries do: take timm/resnet18 or torchvision/resnet18")


@pytest.mark.parametrize(
    ("model", "part"),
    [
        ("dbb_resnet18", "https://drive.google.com/drive/folders/1BPuqY_ktKz8LvHjFK5abD0qy3ESp8v6H"),
        ("repvgg_b2g2", "https://drive.google.com/drive/folders/1Avome4KvNp0Lqh2QwhXO6L5URQjzCjUq"),
        ("repvggplus_l2pse", "https://drive.google.com/"),
        ("acnet_resnet50", "no weights were published (never released)"),
        ("repvgg_tiny", "no weights were published"),
    ],
)
def test_weights_that_are_not_on_the_hub_say_where_they_are(model, part):
    message = refusal(model)
    assert message.startswith(f"{model}: ") and part in message and "--checkpoint" in message
