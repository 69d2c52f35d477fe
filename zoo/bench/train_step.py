"""Training steps: what the branches cost while training (OREPA, arXiv 2204.00826, table 4, asks it of DBB).

    train   the training structure
    plain   the same network with one convolution and one BatchNorm in each block's place
    peer    timm's own network of the same architecture, in NCHW as its users have it

All contenders of a model run interleaved; a step is forward, backward and SGD with momentum on random images.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from zoo.bench.memory import TensorMemory, bounded_memory
from zoo.bench.results import Row, failure
from zoo.bench.statistics import noise_warning, paired_ratio, summarize
from zoo.bench.structures import peer_name
from zoo.bench.timing import CudaClock, HostClock, Plan, Timings, interleave
from zoo.export.torch_engines import torch_threads
from zoo.registry import create_model
from zoo.reparam.block import MultiBranchConv2d
from zoo.reparam.branches import build_block

STRUCTURES = ("plain", "train", "peer")
LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
PRECISIONS = ("fp32", "bf16")
PHASES = ("forward", "backward", "optimizer")


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A network's step in one layout; bf16 is autocast, weights stay float32."""

    model: str
    structure: str
    layout: str = "nhwc"
    precision: str = "fp32"

    @property
    def name(self) -> str:
        return f"{self.structure} {self.layout} {self.precision}"


def contenders_of(
    model: str, structures: Sequence[str], layouts: Sequence[str], precisions: Sequence[str]
) -> list[Contender]:
    """Rows of one model. A peer that timm does not have is left out; one that it has runs in NCHW only.

    timm's strided 1x1 branches corrupt the heap in channels_last on CPU (oneDNN issue 6035).
    """
    rows = []
    for structure in structures:
        if structure == "peer" and peer_name(model) is None:
            continue
        for layout in ["nchw"] if structure == "peer" else layouts:
            for precision in precisions:
                rows.append(Contender(model=model, structure=structure, layout=layout, precision=precision))
    return rows


def training_network(model: str, structure: str) -> nn.Module:
    """A network to train, randomly initialised.

    Raises:
        ValueError: Unknown model or structure, or a peer that timm does not have.
    """
    if structure not in STRUCTURES:
        raise ValueError(f"unknown structure {structure!r}: known are {', '.join(STRUCTURES)}")
    name = peer_name(model) if structure == "peer" else model
    if name is None:
        raise ValueError(f"timm has no network of the architecture of {model}")
    network = create_model(name)
    return plain(network) if structure == "plain" else network


def plain(model: nn.Module) -> nn.Module:
    """A copy with each block's KxK convolution and one BatchNorm in its place: the deployed network, trainable."""
    twin = copy.deepcopy(model)
    for name, module in list(twin.named_modules()):
        if isinstance(module, MultiBranchConv2d):
            twin.set_submodule(name, build_block(module.spec, "plain"))
    return twin


class Step:
    """One training step on fixed random images; keeps the seconds of its phases.

    Attributes:
        seconds: (forward, backward, optimizer) of every call.
    """

    def __init__(self, network: nn.Module, contender: Contender, batch_size: int, img_size: int, device: str) -> None:
        layout = LAYOUTS[contender.layout]
        self.network = network.to(device=device, memory_format=layout).train()  # pyright: ignore[reportCallIssue]
        images = torch.randn(batch_size, 3, img_size, img_size, device=device)
        self.images = images.contiguous(memory_format=layout)
        self.labels = torch.zeros(batch_size, dtype=torch.long, device=device)
        self.optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)
        self.device, self.bf16 = device, contender.precision == "bf16"
        self.seconds: list[tuple[float, float, float]] = []

    def __call__(self) -> None:
        self.optimizer.zero_grad()
        marks = [self._now()]
        loss = self.forward()
        marks.append(self._now())
        loss.backward()
        marks.append(self._now())
        self.optimizer.step()
        marks.append(self._now())
        forward, backward, optimizer = (after - before for before, after in itertools.pairwise(marks))
        self.seconds.append((forward, backward, optimizer))

    def forward(self) -> torch.Tensor:
        """The loss, with everything that backward needs alive."""
        with self._autocast():
            outputs = self.network(self.images)
            return F.cross_entropy(_logits(outputs).float(), self.labels)

    def _autocast(self) -> AbstractContextManager[object]:
        return torch.autocast(torch.device(self.device).type, torch.bfloat16) if self.bf16 else nullcontext()

    def _now(self) -> float:
        if self.device.startswith("cuda"):
            torch.cuda.synchronize()
        return time.perf_counter()


def _logits(outputs: object) -> torch.Tensor:
    """The main output of a network that also has auxiliary heads."""
    logits = outputs[0] if isinstance(outputs, (tuple, list)) else outputs
    assert isinstance(logits, torch.Tensor)
    return logits


def step_memory(step: Step) -> tuple[int, int]:
    """(bytes kept between forward and backward, most bytes alive during a step), of tensors a step makes itself.

    Gradients are among them, as the optimizer's state is not: it is made before and stays.
    """
    step()
    step.optimizer.zero_grad()
    with TensorMemory() as memory:
        loss = step.forward()
        kept = memory.live
        loss.backward()
    return kept, memory.peak


def measure_model(
    contenders: Sequence[Contender],
    *,
    batch_size: int,
    img_size: int,
    threads: int,
    plan: Plan,
    device: str = "cpu",
    on_round: Callable[[int], None] = lambda done: None,
) -> list[Row]:
    """Time the steps of one model's contenders; ratios are to the first one that runs. Times in seconds.

    Raises:
        ValueError: Unknown model or structure.
    """
    setting = {"batch_size": batch_size, "img_size": img_size, "threads": threads, "device": device}
    rows: list[Row] = [{**dataclasses.asdict(contender), **setting} for contender in contenders]
    steps: dict[str, Step] = {}
    with torch_threads(threads), bounded_memory():
        for contender, row in zip(contenders, rows, strict=True):
            network = training_network(contender.model, contender.structure)
            row["params"] = sum(p.numel() for p in network.parameters())
            try:
                step = Step(network, contender, batch_size, img_size, device)
                row["saved_activations"], row["peak_memory"] = step_memory(step)
            except (RuntimeError, MemoryError) as error:
                row |= failure(error)
                continue
            row["status"], steps[contender.name] = "ok", step
        if steps:
            clock = CudaClock() if device.startswith("cuda") else HostClock()
            _figures(rows, contenders, steps, interleave(steps, plan, clock=clock, on_round=on_round))
    return rows


def _figures(rows: Sequence[Row], contenders: Sequence[Contender], steps: dict[str, Step], timings: Timings) -> None:
    reference = next(iter(steps))
    for contender, row in zip(contenders, rows, strict=True):
        if row["status"] != "ok":
            continue
        samples = timings.samples[contender.name]
        ratio = paired_ratio(samples, timings.samples[reference])
        row |= dataclasses.asdict(summarize(samples))
        calls = timings.rounds * timings.calls[contender.name]
        phases = zip(PHASES, zip(*steps[contender.name].seconds[-calls:], strict=True), strict=True)
        row |= {phase: summarize(seconds).median for phase, seconds in phases}
        row["step_ratio"] = dataclasses.asdict(ratio)
        row["images_per_s"] = row["batch_size"] / row["median"]
        row["other_cpus"] = sum(timings.other_cpu[contender.name]) / row["n"]
        row["samples"] = [float(f"{s:.5g}") for s in samples]
        if contender.name != reference:
            row["warning"] = noise_warning(ratio)
