"""Files that nobody should trust: refused in one line that names them, quickly, and nothing in them is executed."""

import pytest
import torch

from tests.support import hostile
from tests.support.hostile import (
    PAYLOADS,
    deployed_saying,
    deployed_with,
    raw,
    run_with,
    torch_file,
    weights_with,
)  # fmt: skip
from zoo.cli.main import main

SAFE = "x.safetensors", "deployed.safetensors"
CONV = "stem.conv.branches.kxk.conv.weight"

# ---- what a deployed file says of itself: `zoo inspect`
SAID = [
    *[("model", value) for value in (3, "a" * 999, ["a"], {"a": 1}, "", "../../etc/passwd", "nope")],
    *[("model", f"timm/{name}") for name in ("nope", "hf-hub:evil/x", "hf_hub:evil/x", "local-dir:/etc")],
    ("model", "timm/vit_giant_patch14_224"),
    ("model", "torchvision/nope"),
    ("model", "a\x1b[2Jb"),
    *[("num_classes", value) for value in ("10", 10.5, True, -1, 10**9, 10**30, [10], 11, 0)],
    *[("structure", value) for value in (1, "both", ["train"])],
    *[("block", value) for value in (7, "nope", "acb" * 100, ["acb"], {})],
    *[("model_kwargs", value) for value in (3, "x", [1], {"colour": "red"}, {"x": "/etc/passwd"}, {"a" * 999: 1})],
    *[("model_kwargs", {"in_chans": value}) for value in (10**6, -1, "x", None, "http://a", [3], {"a": 1})],
    ("model_kwargs", {"x": {"y": ["a", {"z": "../x"}]}}),
    *[("input_size", value) for value in (224, [3], [3, "a", 1], [3, 0, 0], [3, 10**5, 10**5], [-3, 16, 16])],
    *[("mean", value) for value in (0.5, [], ["a"], [1e9], [None], {"a": 1}, [0.5] * 5000)],
    *[("std", value) for value in (0.5, [], [0, 0, 0], [-1, 1, 1], ["a"])],
    *[("crop_pct", value) for value in ("a", 0, -1, 99, [0.9])],
    *[("interpolation", value) for value in (2, "nope", ["bicubic"])],
    *[("class_names", value) for value in ("a", [1, 2], [None], {"a": 1}, ["a" * 10**6])],
    *[("top1", value) for value in ("x", 101, -1, [1])],
    *[("report", value) for value in (3, "x", [1])],
    ("weights", {"a": 1}),
]  # fmt: skip
TEXTS = {
    "no JSON": "{", "a list": "[1]", "a number": "3", "a string": '"x"', "null": "null",
    "deep": "[" * 100_000, "deep object": '{"a":' * 50_000, "huge number": '{"top1": ' + "9" * 10_000 + "}",
    "infinite": '{"top1": 1e999}',
}  # fmt: skip

# ---- files of weights: `zoo inspect FILE --model repvgg_tiny`
WEIGHTS = {
    "a circle": torch_file(hostile.circle()),
    "a circle of lists": torch_file({"x": hostile.circle_of_lists()}),
    "nested": torch_file(hostile.nested(200)),
    "doubling": torch_file({"x": hostile.doubling(40)}),
    "many keys": torch_file({f"key{i}": torch.zeros(()) for i in range(10_001)}),
    "a long key": torch_file({"module." * 200_000 + "x": torch.zeros(1)}),
    "many modules": torch_file({"module." * 70 + "x": torch.zeros(1)}),
    "many things": hostile.many_things(3_000_000),
    "many things in capitals": hostile.renamed_pickle(3_000_000),
    "an archive that grows": hostile.bomb(200),
    **{f"growing {name}": torch_file({"w": torch.ones(1), "x": call}) for name, call in hostile.GROWING.items()},
    "a list": torch_file([1, 2, 3]),
    "a number": torch_file(3),
    "a string": torch_file("state_dict"),
    "a tensor": torch_file(torch.ones(3)),
    "a set": torch_file({"state_dict": {1, 2}}),
    "no tensors": torch_file({"state_dict": {"a": 1, "b": "x"}}),
    "numbers for names": torch_file({1: torch.ones(1), 2: torch.ones(1)}),
    "no names": torch_file({None: torch.ones(1)}),
    "empty": raw(b""),
    "text": raw(b"hello, world\n"),
    "HTML": raw(b"<!doctype html><title>404</title>"),
    "zeros": raw(bytes(1000)),
    "half": raw(lambda data: data[: len(data) // 2]),
    "the last byte": raw(lambda data: data[:-1]),
    "a wrong byte in the pickle": raw(lambda data: data.replace(b"_rebuild_tensor_v2", b"_rebuild_tensor_v9", 1)),
    "an absurd header": raw(lambda data: (2**60).to_bytes(8, "little") + data[8:], *SAFE),
    "half a header": raw(lambda data: data[:100], *SAFE),
    "no shapes": raw(lambda data: data.replace(b'"shape"', b'"shame"'), *SAFE),
    "an ONNX name": raw(b"PK\x03\x04" + bytes(100), "x.onnx"),
    "expanded": weights_with(CONV, lambda w: torch.zeros(1).expand(10**6, 10**6)),
    "expanded to size": weights_with(CONV, lambda w: torch.zeros(1).expand(w.shape)),
    "sparse": weights_with(CONV, lambda w: w.to_sparse()),
    "absurdly sparse": weights_with(CONV, lambda w: torch.sparse_coo_tensor(size=(10**6, 10**6))),
    "complex": weights_with(CONV, lambda w: w.to(torch.complex64)),
    "int8": weights_with(CONV, lambda w: w.to(torch.int8)),
    "bool": weights_with(CONV, lambda w: w > 0),
    "quantised": weights_with(CONV, lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8)),
    "without values": weights_with(CONV, lambda w: w.to("meta")),
    "another size": weights_with(CONV, lambda w: w[:1].clone()),
    "another number of dimensions": weights_with(CONV, lambda w: w[None].clone()),
    "no elements": weights_with(CONV, lambda w: w[:0].clone()),
    "a number for weights": weights_with(CONV, lambda w: 3),
    "a scalar classifier": weights_with("head.fc.weight", lambda w: torch.ones(())),
    "a classifier without classes": weights_with("head.fc.weight", lambda w: w[:0].clone()),
}  # fmt: skip

# ---- checkpoints of runs: `train.py --resume FILE`
PARTS = ("config", "progress", "optimizer", "state_dict", "scaler")


def changed(path, *values):
    """Runs with each of these values in a place; `...` is none."""
    return {f"{path} is {str(value)[:20]}": run_with(path, value) for value in values}


MOMENTA = {
    "expanded": lambda momentum: torch.zeros(1).expand(momentum.shape),
    "NaN": lambda momentum: momentum * float("nan"),
    "infinite": lambda momentum: momentum + float("inf"),
    "sparse": lambda momentum: momentum.to_sparse(),
}
RUNS = {
    **changed("version", 99, 0, -1, "1", None, 1.5, [1], torch.ones(2)),
    **{k: v for key in PARTS for k, v in changed(key, ..., 3, None, "x", [1]).items()},
    **changed("state_dict_ema", 3, {"a": 1}, {"a": torch.ones(1)}, None),
    **changed("num_classes", "10", -1, 10**12, None),
    **changed("global_batch", "8", -8, 0, 7, None),
    **changed("progress.epoch", -3, "1", None, 1.5, 10**30),
    **changed("progress.step", -3, "1", None, 1.5, 10**30),
    **changed("progress.best_top1", "1", None, 101, float("nan")),
    **changed("progress.history", 3, [1], [{"a": "=cmd"}], {"a": 1}),
    **changed("config.model", 3, None, [1]),
    **changed("config.data", 3, None, [1]),
    **changed("config.optim.lr", "fast"),
    **changed("config.data.batch_size", "4", 2),
    **changed("config.schedule.epochs", None),
    **changed("config.model.model", "repvgg_a0", "timm/hf-hub:evil/x", "../x"),
    **changed("config.model.model_kwargs", {"x": "/etc/passwd"}, {"colour": "red"}),
    **changed("optimizer.param_groups", [], [1], {}),
    **changed("optimizer.param_groups.0.momentum", "much"),
    **{f"momentum {kind}": run_with("optimizer.state.0.momentum_buffer", change) for kind, change in MOMENTA.items()},
    **changed("optimizer.state", {"a": 1}, {i: {"momentum_buffer": torch.ones(2, 2, 2, 2)} for i in range(200)}),
    "text": raw(b"hello\n", "last.pt"),
    "empty": raw(b"", "last.pt"),
    "half": raw(lambda data: data[: len(data) // 2], "last.pt"),
    "a circle": torch_file(lambda run: {**run, "scaler": hostile.circle()}, "last.pt"),
    **changed("config.data.dataset", "wds/x", "hfds/evil", "hfids/evil", "tfds/evil", "torch/cifar10", "nope"),
    **changed("config.data.train_split", "pipe:touch executed #.tar|1280", "../../etc", "/etc"),
}  # fmt: skip


def test_the_honest_files_are_accepted(honest, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run, weights = torch_file(lambda run: run, "last.pt"), deployed_with()
    assert main(["inspect", str(weights(tmp_path, honest))]) == 0
    assert main(["inspect", str(weights_with(CONV, lambda w: w)(tmp_path, honest))]) == 0
    assert main(["train", "--resume", str(run(tmp_path, honest))]) == 0


def test_a_resumed_file_does_not_choose_what_is_written(honest, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    victims = {tmp_path / "results.json": "results_file", tmp_path / "deployed.safetensors": "output"}
    for path, setting in victims.items():
        path.write_text("precious")
        (tmp_path / setting).mkdir()
        value = str(path if setting == "results_file" else tmp_path)
        file = run_with(f"config.run.{setting}", value)(tmp_path / setting, honest)
        assert main(["train", "--resume", str(file)]) == 0
        assert path.read_text() == "precious"
        assert (tmp_path / setting / "deployed.safetensors").exists()


def test_a_stream_is_named_again_with_its_flags(refused, capsys):
    error = refused(run_with("config.data.dataset", "wds/x"), "train", "--resume", "FILE")
    assert "a file may not choose: repeat --dataset, --data-dir, --train-split, --val-split" in error


@pytest.mark.parametrize("key, value", SAID, ids=lambda value: repr(value)[:40])
def test_what_a_deployed_file_says_is_checked(key, value, refused):
    refused(deployed_with(**{key: value}), "inspect", "FILE")


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_metadata_of_another_form_is_refused(text, refused):
    refused(deployed_saying(text), "inspect", "FILE")


@pytest.mark.parametrize("build", WEIGHTS.values(), ids=WEIGHTS)
def test_weights_that_are_none_are_refused(build, refused):
    refused(build, "inspect", "FILE", "--model", "repvgg_tiny")


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
@pytest.mark.parametrize("place", ["alone", "beside", "among", "config", "optimizer", "old"])
def test_no_payload_is_executed(payload, place, refused):
    content = {
        "alone": payload, "old": {"state_dict": {"a": torch.ones(1)}, "x": payload},
        "beside": {"state_dict": {"a": torch.ones(1)}, "x": payload}, "among": {"a": torch.ones(1), "b": payload},
    }.get(place, lambda run: {**run, place: payload})  # fmt: skip
    how = {"_use_new_zipfile_serialization": False} if place == "old" else {}
    if place in ("config", "optimizer"):
        refused(torch_file(content, "last.pt", **how), "train", "--resume", "FILE")
    else:
        refused(torch_file(lambda _: content, **how), "inspect", "FILE", "--model", "repvgg_tiny")


@pytest.mark.parametrize("build", RUNS.values(), ids=RUNS)
def test_a_run_that_is_none_is_not_continued(build, refused):
    refused(build, "train", "--resume", "FILE")


def test_what_a_file_says_does_not_steer_the_terminal(honest, tmp_path, capsys):
    assert main(["inspect", str(deployed_with(weights="a\x1b[2J\u202eb")(tmp_path, honest))]) == 0
    assert all(line.isprintable() for line in capsys.readouterr().out.splitlines())


def test_how_a_network_was_started_is_no_business_of_its_file(honest, tmp_path, capsys):
    """Paths and addresses of the first weights are dropped: the weights are the file's own."""
    elsewhere = {"checkpoint_path": "/etc/passwd", "pretrained": True, "pretrained_cfg": {"url": "http://a"}}
    assert main(["inspect", str(deployed_with(model_kwargs=elsewhere)(tmp_path, honest))]) == 0
