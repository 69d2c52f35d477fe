"""Training steps: what the branches cost while training (OREPA, arXiv 2204.00826, table 4, asks it of DBB).

    train   the training structure
    merged  the same, each block trained as one convolution (`zoo.reparam.merged`)
    plain   the same network with one convolution and one BatchNorm in each block's place
    peer    timm's own network of the same architecture, in NCHW as its users have it

All contenders of a model run interleaved; a step is forward, backward and SGD with momentum on random images.
"""

import copy
import itertools
import time
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from zoo.bench.memory import TensorMemory, bounded_memory
from zoo.bench.outcome import note_failure, note_times
from zoo.bench.statistics import noise_warning, paired_ratio, summarize
from zoo.bench.structures import peer_name
from zoo.bench.timing import OnRound, Plan, Timings, clock_of, interleave
from zoo.export.torch_engines import torch_threads
from zoo.network import main_output
from zoo.registry import create_model
from zoo.reparam.block import MultiBranchConv2d
from zoo.reparam.branches import build_block
from zoo.reparam.merged import merge
from zoo.results.records import TrainStep

LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}


def contenders_of(
    model: str,
    structures: Sequence[str],
    layouts: Sequence[str],
    precisions: Sequence[str],
    merge_pixels: int = 0,
    **setting: Any,
) -> list[TrainStep]:
    """List the records to be filled for one model. A peer that timm lacks is left out; one that it has runs in NCHW.

    timm's strided 1x1 branches corrupt the heap in channels_last on CPU (oneDNN issue 6035). bf16 is autocast: weights
    stay float32.

    Args:
        merge_pixels: Of merged training, which runs too unless this is 0.
        setting: What all of them share: batch_size, img_size, threads and device.
    """
    records = []
    for structure in (*structures, "merged") if merge_pixels else structures:
        if structure == "peer" and peer_name(model) is None:
            continue
        own = {"structure": structure, "merge_pixels": merge_pixels if structure == "merged" else None}
        for layout, precision in itertools.product(["nchw"] if structure == "peer" else layouts, precisions):
            records.append(TrainStep(model=model, layout=layout, precision=precision, **own, **setting))
    return records


def training_network(model: str, structure: str, merge_pixels: int | None = None) -> nn.Module:
    """Build a network to train, randomly initialised; with `merge_pixels`, to be trained merged.

    Raises:
        ValueError: Unknown model.
    """
    name = peer_name(model) if structure == "peer" else model
    assert name is not None, model  # `contenders_of` lists no peer that timm lacks
    network = create_model(name)
    if merge_pixels:
        merge(network, merge_pixels)
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

    def __init__(self, network: nn.Module, record: TrainStep) -> None:
        layout, device, size = LAYOUTS[record.layout], record.device, record.img_size
        self.network = network.to(device=device, memory_format=layout).train()  # pyright: ignore[reportCallIssue]
        images = torch.randn(record.batch_size, 3, size, size, device=device)
        self.images = images.contiguous(memory_format=layout)
        self.labels = torch.zeros(record.batch_size, dtype=torch.long, device=device)
        self.optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)
        self.device, self.bf16 = device, record.precision == "bf16"
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
        with torch.autocast(torch.device(self.device).type, torch.bfloat16, self.bf16):
            outputs = self.network(self.images)
            return F.cross_entropy(main_output(outputs).float(), self.labels)

    def _now(self) -> float:
        if self.device.startswith("cuda"):
            torch.cuda.synchronize()
        return time.perf_counter()


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
    records: Sequence[TrainStep], plan: Plan, on_round: OnRound = lambda done: None
) -> Sequence[TrainStep]:
    """Time the steps of one model's contenders; ratios are to the first one that runs. Times in seconds.

    Raises:
        ValueError: Unknown model or structure.
    """
    if not records:  # a peer that timm lacks
        return records
    steps: dict[str, Step] = {}
    with torch_threads(records[0].threads), bounded_memory():
        for record in records:
            network = training_network(record.model, record.structure, record.merge_pixels)
            record.params = sum(p.numel() for p in network.parameters())
            try:
                step = Step(network, record)
                record.saved_activations, record.peak_memory = step_memory(step)
            except (RuntimeError, MemoryError) as error:
                note_failure(record, error)
                continue
            steps[record.name] = step
        if steps:
            clock = clock_of(records[0].device)
            _fill(records, steps, interleave(steps, plan, clock=clock, on_round=on_round))
    return records


def _fill(records: Sequence[TrainStep], steps: dict[str, Step], timings: Timings) -> None:
    """Put times and the ratio to the first step into the records of those that ran."""
    reference = next(iter(steps))
    for record in records:
        if record.status != "ok":
            continue
        note_times(record, timings, record.name)
        record.step_ratio = paired_ratio(timings.samples[record.name], timings.samples[reference])
        calls = timings.rounds * timings.calls[record.name]
        phases = (summarize(seconds).median for seconds in zip(*steps[record.name].seconds[-calls:], strict=True))
        record.forward, record.backward, record.optimizer = phases
        record.is_reference = record.name == reference
        if not record.is_reference:
            record.warning = noise_warning(record.step_ratio)
