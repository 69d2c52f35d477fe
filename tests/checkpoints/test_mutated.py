"""A valid file changed at random is read as what it says, or refused as a CheckpointError; nothing else happens."""

import copy
import dataclasses
import io
import json

import msgspec
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from zoo.checkpoints import CheckpointError, read_checkpoint
from zoo.checkpoints.schema import About
from zoo.engine import checkpoint
from zoo.engine.config import TrainConfig
from zoo.untrusted import typed

SETTINGS = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
STATE = {"conv.weight": torch.arange(4.0), "bn.running_var": torch.ones(2), "bn.num_batches_tracked": torch.tensor(3)}
SAID = {
    "model": "repvgg_tiny", "structure": "deployed", "num_classes": 10, "block": "acb", "model_kwargs": {"in_chans": 3},
    "input_size": [3, 16, 16], "mean": [0.5] * 3, "std": [0.2] * 3, "crop_pct": 0.9, "interpolation": "bicubic",
    "class_names": ["a", "b"], "weights": "ema", "top1": 71.5, "report": {"blocks": []},
}  # fmt: skip
RUN = {
    "version": 1, "model": "repvgg_tiny", "num_classes": 10, "global_batch": 8,
    "config": dataclasses.asdict(TrainConfig()), "progress": dataclasses.asdict(checkpoint.Progress(epoch=2)),
    "optimizer": {"state": {0: {"momentum_buffer": torch.ones(4)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
    "scaler": {}, "state_dict": STATE, "state_dict_ema": STATE,
}  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
JSON = SAID.keys() | {"x"}


def read(reader, path):
    """What the reader makes of a file, or None if it refuses it in one line that names it."""
    try:
        return reader(path)
    except CheckpointError as error:
        message = str(error)
    assert message.startswith(str(path))
    assert "\n" not in message
    return None


def same(state):
    return state.keys() == STATE.keys() and all(torch.equal(state[key], STATE[key]) for key in STATE)


@SETTINGS
@given(key=st.sampled_from(sorted(JSON)), value=VALUES)
def test_metadata_is_typed_or_refused_and_the_weights_are_the_same(key, value, tmp_path):
    (tmp_path / "x.safetensors").write_bytes(save(STATE, {"zoo": json.dumps({**SAID, key: value})}))
    found = read(read_checkpoint, tmp_path / "x.safetensors")
    if found is None:
        assert key != "x"  # what is not declared is nobody's business
    else:
        assert same(found.state_dict)
        said = {name: found.metadata[name] for name in About.__struct_fields__ if name in found.metadata}
        assert msgspec.to_builtins(typed(About, said)) == said


def places(value, way=()):
    """The ways to every item in nested containers."""
    yield way
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*way, key))


@SETTINGS
@given(way=st.sampled_from([way for way in places(RUN) if way]), value=VALUES)
def test_a_run_is_typed_or_refused(way, value, tmp_path):
    run = copy.deepcopy(RUN)
    place = run
    for key in way[:-1]:
        place = place[key]
    place[way[-1]] = value
    torch.save(run, tmp_path / "last.pt")
    found = read(checkpoint.load, tmp_path / "last.pt")
    if found is not None:
        assert isinstance(found.config, TrainConfig) and found.version == 1
        assert {"output", "results_file", "resume"}.isdisjoint(checkpoint.remembered(found.config))
        if way[0] not in ("state_dict", "state_dict_ema"):
            assert same(found.state_dict)


def file_of(kind):
    if kind == "safetensors":
        return save(STATE, {"zoo": json.dumps(SAID)})
    data = io.BytesIO()
    torch.save({"state_dict": STATE, "epoch": 3}, data, _use_new_zipfile_serialization=kind == "zip")
    return data.getvalue()


@pytest.mark.parametrize("kind", ["safetensors", "zip", "old"])
@SETTINGS
@given(data=st.data())
def test_changed_bytes_are_read_or_refused(kind, data, tmp_path):
    honest = bytearray(file_of(kind))
    start = data.draw(st.integers(0, len(honest) - 1))
    stop = data.draw(st.integers(start, min(len(honest), start + 8)))
    honest[start:stop] = data.draw(st.binary(max_size=8))
    path = tmp_path / ("x.safetensors" if kind == "safetensors" else "x.pt")
    path.write_bytes(honest)
    found = read(read_checkpoint, path)
    if found is not None:
        assert all(isinstance(tensor, torch.Tensor) for tensor in found.state_dict.values())
