"""The engines `eager` and `compile`: PyTorch itself, weights and activations in channels_last."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from zoo.cores import check_crowd
from zoo.export.engines import DTYPES, Run, Source


def eager(source: Source, precision: str) -> Run:
    """The deployed network as it is, in channels_last and the wanted precision."""
    return _runner(_prepared(source.network, precision), source, precision)


def compile_(source: Source, precision: str) -> Run:
    """torch.compile with frozen weights. It compiles anew, for up to minutes, at every new input shape."""
    network = _prepared(source.network, precision)
    compiled = torch.compile(network, dynamic=False, options={"freezing": True})
    return _runner(compiled, source, precision)


def _prepared(network: nn.Module, precision: str) -> nn.Module:
    return copy.deepcopy(network).to(dtype=DTYPES[precision]).to(memory_format=torch.channels_last)


def _runner(network: Run, source: Source, precision: str) -> Run:
    device, dtype = source.example.device, DTYPES[precision]

    def run(images: Tensor) -> Tensor:
        with torch_threads(source.threads), torch.inference_mode():
            images = images.to(device=device, dtype=dtype, memory_format=torch.channels_last)
            return network(images).float()

    return run


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """PyTorch on this many CPU threads: a setting of the whole process, so it is put back.

    Raises: ValueError for more than the machine bears.
    """
    before = torch.get_num_threads()
    if before == number:
        yield
        return
    torch.set_num_threads(check_crowd("threads", number))
    try:
        yield
    finally:
        torch.set_num_threads(before)
