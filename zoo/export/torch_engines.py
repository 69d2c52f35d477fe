"""The engines `eager` and `compile`: PyTorch itself, weights and activations in channels_last."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from zoo.cores import check_crowd
from zoo.export.engines import DTYPES, Run, Source


def eager(source: Source, precision: str) -> Run:
    """The deployed network as it is, in channels_last and the wanted precision."""
    return _runner(source, precision)


def compile_(source: Source, precision: str) -> Run:
    """torch.compile with frozen weights. It compiles anew, for up to minutes, at every new input shape."""
    return _runner(source, precision, partial(torch.compile, dynamic=False, options={"freezing": True}))


def _runner(source: Source, precision: str, compiler: Callable[[nn.Module], Run] = lambda network: network) -> Run:
    device, dtype = source.example.device, DTYPES[precision]
    network = compiler(copy.deepcopy(source.network).to(dtype=dtype).to(memory_format=torch.channels_last))

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
