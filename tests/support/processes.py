"""Child processes that do not import torch anew: forked from a clean process that has."""

import multiprocessing
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


def fresh_process() -> Any:
    """A multiprocessing context whose children start from a clean process that has imported the engine."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["zoo.engine.train"])
    return context


@dataclass(frozen=True)
class Finished:
    """What a child process left behind; a negative code is the signal that ended it."""

    code: int
    stdout: str
    stderr: str


def run_apart(function: Callable[..., Any], *arguments: Any, cwd: Path | None = None, timeout: float = 120) -> Finished:
    """Call a function of a test module in a process of its own, which may crash, change limits or print."""
    with tempfile.TemporaryDirectory() as folder:
        streams = [Path(folder) / "stdout", Path(folder) / "stderr"]
        child = fresh_process().Process(target=_call, args=(function, arguments, cwd, *map(str, streams)))
        child.start()
        child.join(timeout)
        if child.is_alive():
            child.kill()
            raise TimeoutError(f"{function.__name__} still runs after {timeout} s")
        return Finished(child.exitcode, *(stream.read_text() for stream in streams))


def _call(function: Callable[..., Any], arguments: tuple, cwd: Path | None, *streams: str) -> None:
    for number, stream in enumerate(streams, start=1):
        os.dup2(os.open(stream, os.O_WRONLY | os.O_CREAT), number)
    if cwd is not None:
        os.chdir(cwd)
    function(*arguments)
