"""compile_for: every engine answers as PyTorch does, from the deployed structure."""

import importlib.util
import os
import signal

import pytest
import torch
from torch import nn

from tests.support.export_networks import CLASSES, Small, images, small_network
from tests.support.processes import run_apart
from zoo.export import Engine, ParityError, compile_for
from zoo.export import compile as compile_module
from zoo.export import engines as engines_module
from zoo.export.cpu import cpu_flags
from zoo.export.engines import Source, refusal
from zoo.export.graphs import capture, to_openvino
from zoo.export.openvino_engine import compiled
from zoo.export.torch_engines import torch_threads

ENGINES = [
    pytest.param("eager"),
    pytest.param("onnxruntime"),
    pytest.param("openvino"),
    pytest.param("ncnn"),
    pytest.param("mnn"),
    pytest.param("compile", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_answers_like_the_train_structure_at_any_batch_size(model: nn.Module, name: str) -> None:
    engine = compile_for(model, name, example=images(2), threads=1)
    assert engine.name == f"{name}-fp32" and engine.threads == 1
    assert engine.parity.max_relative_error < 1e-5 and engine.parity.num_images == 4
    sizes = (2, 1) if name == "compile" else (2, 1, 5, 2)  # it compiles anew, in the same way, at every new size
    for x in (images(number, seed=seed) for seed, number in enumerate(sizes, start=3)):
        answer = engine(x)
        assert answer.dtype == torch.float32 and answer.shape == (len(x), CLASSES)
        torch.testing.assert_close(answer, model(x).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "ncnn", "mnn"])
def test_an_answer_is_not_overwritten_by_the_next_call(source: Source, name: str) -> None:
    run = compile_module.BUILDERS[name](source, "fp32")
    first = run(images(2, seed=1))
    kept = first.clone()
    run(images(2, seed=2))
    assert torch.equal(first, kept)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "ncnn", "mnn"])
def test_images_in_any_memory_layout_give_the_same_answer(source: Source, name: str) -> None:
    run = compile_module.BUILDERS[name](source, "fp32")
    x = images(2, seed=1)
    assert torch.equal(run(x), run(x.contiguous(memory_format=torch.channels_last)))
    assert torch.equal(run(x), run(images(4, seed=1)[::2].copy_(x)))


def test_openvino_without_onnx_takes_the_network_directly(source: Source) -> None:
    run = compiled(to_openvino(capture(source.network, source.example)), "fp32", 1)
    torch.testing.assert_close(run(images(3)), source.network(images(3)).detach(), rtol=1e-4, atol=1e-5)


def test_a_network_in_training_mode_is_refused(model: nn.Module) -> None:
    with pytest.raises(ValueError, match="training mode"):
        compile_for(Small(), "eager", example=images(1))


@pytest.mark.parametrize(
    "engine, precision, message",
    [
        ("openvno", "fp32", "unknown engine 'openvno': did you mean openvino"),
        ("tensorrt-llm", "fp32", "known: auto, eager, compile, onnxruntime, openvino, ncnn, mnn"),
        ("eager", "bf61", "unknown precision 'bf61': did you mean bf16"),
        ("eager", "int8", "eager has no int8 path: use openvino, onnxruntime or mnn"),
        ("onnxruntime", "bf16", "use openvino or eager"),
        ("openvino", "int8", "int8 needs calibration="),
        ("ncnn", "int8", "ncnn has no int8 path: use openvino, onnxruntime or mnn"),
        ("mnn", "bf16", "mnn computes in fp32 here: use openvino or eager for bf16"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(model: nn.Module, engine: str, precision: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        compile_for(model, engine, precision, images(1))
    assert "\n" not in str(caught.value)


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert refusal("onnxruntime", "fp32") == (
        "onnx is not installed: pip install onnx onnxscript onnxruntime (our extra [onnx])"
    )
    assert refusal("openvino", "fp32") == "openvino is not installed: pip install openvino (our extra [openvino])"
    assert refusal("mnn", "fp32") == "onnx is not installed: pip install onnx onnxscript MNN (our extra [mnn])"
    assert refusal("eager", "fp32") is None


def test_torch_compile_without_a_compiler_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    reason = refusal("compile", "fp32")
    assert reason is not None and "needs a C++ compiler" in reason


@pytest.mark.parametrize(
    "flags, bf16, fp16",
    [
        ({"avx512f", "avx512_vnni"}, False, False),
        ({"avx512_bf16"}, True, False),
        ({"amx_bf16", "amx_tile", "avx512_fp16"}, True, True),
        ({"asimd", "asimdhp", "bf16"}, True, True),
    ],
)
def test_half_precisions_are_used_only_where_the_cpu_has_them(
    monkeypatch: pytest.MonkeyPatch, flags: set[str], bf16: bool, fp16: bool
) -> None:
    monkeypatch.setattr("zoo.export.cpu.cpu_flags", lambda: frozenset(flags))
    assert (refusal("eager", "bf16") is None) == bf16
    assert (refusal("eager", "fp16") is None) == fp16
    assert refusal("eager", "bf16", device="cuda") is None


def test_cpu_flags_are_words() -> None:
    assert all(flag and " " not in flag for flag in cpu_flags())


def test_a_network_with_several_outputs_is_refused() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
            return [self.conv(x), x]

    with pytest.raises(ValueError, match="answers a list, not one tensor"):
        compile_for(Two().eval(), "eager", example=images(1))


def test_eager_computes_on_the_threads_it_was_given_and_puts_the_number_back(source: Source) -> None:
    seen: list[int] = []

    class Spy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(torch.get_num_threads())
            return self.conv(x)

    before = torch.get_num_threads()
    spy = Source(Spy().eval(), images(1), threads=before + 1)
    compile_module.BUILDERS["eager"](spy, "fp32")(images(1))
    assert seen == [before + 1] and torch.get_num_threads() == before


def test_threads_that_would_crash_the_machine_are_refused(model: nn.Module) -> None:
    with pytest.raises(ValueError, match="threads: 100000 are too many for"):
        compile_for(model, "eager", example=images(1), threads=100000)
    with pytest.raises(ValueError, match="threads: 100000 are too many for"), torch_threads(100000):
        pass


@pytest.mark.parametrize("given, message", [([], "absent"), ([images(2, size=48)], r"\(3, 48, 48\)")])
def test_calibration_images_are_checked(model: nn.Module, given: list[torch.Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compile_for(model, "onnxruntime", "int8", images(2), calibration=given)


def _fake(error: float):
    """A builder of an engine whose answers are off by a share of themselves."""
    return lambda source, precision: lambda x: source.network(x).detach() * (1 + error)


def test_an_fp32_engine_that_answers_otherwise_is_an_error(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(compile_module.BUILDERS, "eager", _fake(0.01))
    with pytest.raises(ParityError, match=r"eager differs from PyTorch by 1.0e-02"):
        compile_for(model, "eager", example=images(2))
    monkeypatch.setitem(compile_module.BUILDERS, "eager", _fake(float("nan")))
    with pytest.raises(ParityError, match="nan"):
        compile_for(model, "eager", example=images(2))


def test_auto_on_a_bare_install_is_eager_without_a_minute_of_compiling(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setitem(compile_module.BUILDERS, "compile", lambda *_: pytest.fail("compiled unasked"))
    engine = compile_for(model, example=images(2), seconds=0.0)
    assert engine.name == "eager-fp32"
    assert "pip install openvino" in engine.table() and "pip install onnx" in engine.table()


def test_auto_takes_the_fastest_and_keeps_all_candidates_on_record(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines_module, "has_bf16", lambda: False)
    monkeypatch.setattr(compile_module, "AUTO", ("eager", "openvino", "onnxruntime", "compile"))
    monkeypatch.setitem(compile_module.BUILDERS, "openvino", _fake(1e-7))
    monkeypatch.setitem(compile_module.BUILDERS, "compile", _fake(0.5))
    monkeypatch.setitem(compile_module.BUILDERS, "onnxruntime", _fake(0))

    def race(engines: list[Engine], example: torch.Tensor, seconds: float) -> list[float]:
        return [{"eager": 0.003, "openvino": 0.001, "onnxruntime": 0.002}[engine.engine] for engine in engines]

    monkeypatch.setattr(compile_module, "_race", race)
    engine = compile_for(model, precision="auto", example=images(2))
    assert engine.name == "openvino-fp32"
    assert [(c.engine, c.milliseconds) for c in engine.candidates[:3]] == [
        ("openvino", 1.0),
        ("onnxruntime", 2.0),
        ("eager", 3.0),
    ]
    reasons = {f"{c.engine}-{c.precision}": c.reason for c in engine.candidates[3:]}
    assert reasons.keys() == {"eager-bf16", "openvino-bf16", "onnxruntime-bf16", "compile-fp32", "compile-bf16"}
    assert "ParityError" in str(reasons["compile-fp32"]) and "no bf16 arithmetic" in str(reasons["eager-bf16"])
    assert len(engine.table().splitlines()) == 1 + len(engine.candidates)


def test_auto_leaves_out_a_quantised_engine_that_mostly_answers_noise(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compile_module, "AUTO", ("eager", "onnxruntime"))
    monkeypatch.setitem(compile_module.BUILDERS, "onnxruntime", _fake(0.5))
    arguments = {"precision": "auto", "example": images(2), "calibration": "random", "seconds": 0.0}
    engine = compile_for(model, allow=("fp32", "int8"), **arguments)
    assert engine.name == "eager-fp32"
    left_out = next(c for c in engine.candidates if (c.engine, c.precision) == ("onnxruntime", "int8"))
    assert left_out.reason == "output SQNR 6.0 dB is below min_sqnr_db=10"
    with pytest.raises(ValueError, match="no engine can be used: eager-int8: eager has no int8"):
        compile_for(model, allow=("int8",), **arguments)
    engine = compile_for(model, allow=("int8",), min_sqnr_db=5, **arguments)
    assert engine.name == "onnxruntime-int8" and engine.candidates[0].milliseconds is not None


def test_the_default_example_is_one_image_of_the_networks_own_size(model: nn.Module) -> None:
    network = small_network()
    network.__dict__["pretrained_cfg"] = {"input_size": (3, 40, 48)}
    assert compile_for(network, "eager").input_size == (3, 40, 48)


def test_the_network_given_is_left_as_it_was(model: nn.Module) -> None:
    network = small_network()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    compile_for(network, "eager", example=images(1))
    after = network.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def signal_after_openvino() -> None:
    runs = [compile_for(small_network(), engine="openvino", example=images(1)) for _ in range(2)]
    while runs:
        runs.pop(0)
    signal.signal(signal.SIGUSR1, lambda *_: print("heard"))
    os.kill(os.getpid(), signal.SIGUSR1)


def test_a_signal_after_openvino_networks_are_gone_does_not_end_the_process() -> None:
    pytest.importorskip("openvino")
    child = run_apart(signal_after_openvino)
    assert (child.code, child.stdout) == (0, "heard\n"), child.stderr
