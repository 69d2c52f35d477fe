"""Reading: wrappers off, nothing executed, and one clear line for what is no checkpoint."""

import argparse
import os
import sys
import types

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from zoo.checkpoints import CheckpointError, read_checkpoint

STATE = {"conv.weight": torch.arange(4.0), "bn.num_batches_tracked": torch.tensor(3)}
OTHER = {name: tensor + 1 for name, tensor in STATE.items()}


def wrap(prefix, state=STATE):
    return {prefix + name: tensor for name, tensor in state.items()}


def same(state, wanted=STATE):
    return state.keys() == wanted.keys() and all(torch.equal(state[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize(
    "content",
    [
        STATE,
        {"state_dict": STATE, "epoch": 3},
        {"model": STATE, "optimizer": {"state": {}}},
        {"model": {"state_dict": wrap("module.")}},
        wrap("module."),
        wrap("module._orig_mod."),
        wrap("_orig_mod.module."),
        {"state_dict": wrap("model.")},
        {"state_dict": STATE, "state_dict_ema": OTHER},
        {"state_dict_ema": STATE},
        {"n_averaged": torch.tensor(5), **wrap("module.")},
    ],
)
def test_wrappers_are_taken_off(content, tmp_path):
    torch.save(content, tmp_path / "x.pth.tar")
    assert same(read_checkpoint(tmp_path / "x.pth.tar").state_dict)


@pytest.mark.parametrize("key", ["state_dict_ema", "model_ema", "ema"])
def test_averaged_weights_are_read_on_demand(key, tmp_path):
    torch.save({"state_dict": STATE, key: wrap("module.", OTHER)}, tmp_path / "x.pth")
    assert same(read_checkpoint(tmp_path / "x.pth", ema=True).state_dict, OTHER)


def test_averaged_weights_that_are_not_there_are_not_replaced_by_raw_ones(tmp_path):
    torch.save({"state_dict": STATE, "state_dict_ema": None}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"x\.pth: holds no averaged weights"):
        read_checkpoint(tmp_path / "x.pth", ema=True)


def test_a_prefix_inside_a_compiled_network_is_taken_out(tmp_path):
    torch.save({"stem._orig_mod.conv.weight": torch.ones(1), "head.weight": torch.ones(1)}, tmp_path / "x.pth")
    assert set(read_checkpoint(tmp_path / "x.pth").state_dict) == {"stem.conv.weight", "head.weight"}


def test_safetensors_are_recognised_by_content_and_carry_metadata(tmp_path):
    save_file(STATE, tmp_path / "x.bin", {"zoo": '{"model": "repvgg_a0", "structure": "deployed"}'})
    checkpoint = read_checkpoint(tmp_path / "x.bin")
    assert same(checkpoint.state_dict)
    assert checkpoint.model == "repvgg_a0"
    assert checkpoint.metadata["structure"] == "deployed"


def test_a_training_checkpoint_of_ours_tells_how_its_network_was_built(tmp_path):
    config = {"model": {"model": "repvgg_tiny", "model_kwargs": {"block": "acb"}, "block": None}}
    run = {"version": 1, "model": "repvgg_tiny", "num_classes": 10, "config": config, "optimizer": {}}
    run |= {"input_size": (3, 16, 16), "test_input_size": (3, 24, 24), "crop_pct": 0.9, "class_names": ("a", "b")}
    torch.save({**run, "state_dict": STATE, "state_dict_ema": OTHER}, tmp_path / "last.pt")
    checkpoint = read_checkpoint(tmp_path / "last.pt", ema=True)
    assert same(checkpoint.state_dict, OTHER)
    assert checkpoint.model == "repvgg_tiny"
    assert checkpoint.metadata["num_classes"] == 10
    assert checkpoint.metadata["model_kwargs"] == {"block": "acb"}
    said = {"input_size": (3, 16, 16), "test_input_size": (3, 24, 24), "crop_pct": 0.9, "class_names": ("a", "b")}
    assert checkpoint.images == said


def test_official_pth_tar_with_arguments_and_numpy_scalars_loads_safely(tmp_path):
    beside = {"args": argparse.Namespace(lr=0.1), "metric": np.float64(74.22), "best": np.float32(1), "arch": "x"}
    torch.save({"state_dict": STATE, **beside}, tmp_path / "x.pth.tar")
    checkpoint = read_checkpoint(tmp_path / "x.pth.tar")
    assert same(checkpoint.state_dict)
    assert checkpoint.metadata["metric"] == 74.22


def test_a_checkpoint_with_yacs_configuration_loads_without_yacs(tmp_path, monkeypatch):
    class CfgNode(dict):
        pass

    CfgNode.__module__, CfgNode.__qualname__ = "yacs.config", "CfgNode"
    yacs = types.ModuleType("yacs.config")
    vars(yacs)["CfgNode"] = CfgNode
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "yacs", types.ModuleType("yacs"))
        patch.setitem(sys.modules, "yacs.config", yacs)
        config = CfgNode(DATA=CfgNode(IMG_SIZE=224))
        vars(config)["frozen"] = True
        torch.save({"model": STATE, "config": config}, tmp_path / "x.pth")
    assert same(read_checkpoint(tmp_path / "x.pth").state_dict)


class Evil:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def test_nothing_in_a_checkpoint_is_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": STATE, "extra": Evil()}, "x.pth")
    with pytest.raises(
        CheckpointError, match=r"x\.pth: holds an object of \w+\.mkdir .* save its state_dict\(\) alone"
    ):
        read_checkpoint("x.pth")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("size", [5, 60, -1])
def test_a_truncated_checkpoint_is_one_line(suffix, size, tmp_path):
    path = tmp_path / f"x{suffix}"
    save_file(STATE, path) if suffix == ".safetensors" else torch.save(STATE, path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CheckpointError, match=r"is truncated.*copy or download it again") as caught:
        read_checkpoint(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such checkpoint"),
        (b"", "is empty"),
        (b"<html>404</html>", "not a checkpoint"),
        (b"\x80\x02garbage", "not a checkpoint"),
    ],
)
def test_what_is_no_checkpoint_is_named(content, message, tmp_path):
    path = tmp_path / "x.pth"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_checkpoint(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning", "ignore:`torch.jit:DeprecationWarning")
def test_a_torchscript_archive_is_not_called_damaged(tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"x\.pt: is a TorchScript archive.*; save the state_dict\(\)"):
        read_checkpoint(tmp_path / "x.pt")


@pytest.mark.parametrize("content", [{}, [1, 2], {"epoch": 3}, {"state_dict": {"a": 1}}, torch.ones(2)])
def test_a_file_without_weights_is_named(content, tmp_path):
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"x\.pth: no weights found in it"):
        read_checkpoint(tmp_path / "x.pth")


def test_a_folder_is_not_a_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match="is a folder"):
        read_checkpoint(tmp_path)


def test_of_what_others_put_beside_weights_only_what_fits_a_line_is_kept(tmp_path):
    said = {"epoch": 3, "arch": "repvgg_a0", "note": "x" * 513, "best": 10**50, 7: "seven", "loss": 0.5}
    torch.save({"state_dict": {"conv.weight": torch.ones(1)}, **said}, tmp_path / "x.pth")
    assert read_checkpoint(tmp_path / "x.pth").metadata == {"epoch": 3, "arch": "repvgg_a0", "loss": 0.5}


def test_facts_of_others_are_not_taken_for_ours(tmp_path):
    """They may be of any type and size: only the name is looked up, and checked where it is."""
    said = {"input_size": 224, "num_classes": 50_000_000, "model_kwargs": "x", "mean": "y", "model": "repvgg_a0"}
    torch.save({"state_dict": {"w": torch.ones(1)}, **said}, tmp_path / "x.pth")
    checkpoint = read_checkpoint(tmp_path / "x.pth")
    assert checkpoint.metadata == {"model": "repvgg_a0"}
    assert checkpoint.images == {}
    torch.save({"state_dict": {"w": torch.ones(1)}, "model": 3}, tmp_path / "x.pth")
    assert read_checkpoint(tmp_path / "x.pth").metadata == {}
