"""Honest files of a run, and the check that a hostile one is refused."""

import resource
import time
import warnings

import pytest

from tests.support.training import small_run
from zoo.cli.main import main

YARDS, BYTES = 50, 2**30
"""What refusing a file may take: CPU time in yards, 0.1 to 0.2 s each where nothing else runs, and memory.

Measuring coverage may take a second or two of it, where a function has run so often that it is watched no longer.
"""
QUICK = 2.0
"""Seconds that no machine has to be measured for: fewer than 50 yards of the fastest."""


def yard() -> float:
    """The CPU time of two million additions now: it grows as other work does when processes share a core."""
    start = time.process_time()
    sum(number + 1 for number in range(2_000_000))
    return time.process_time() - start


@pytest.fixture(scope="session")
def honest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("honest") / "run"
    small_run(folder, "--epochs", "1", "--train-num-samples", "8")
    return folder


@pytest.fixture
def refused(honest, tmp_path, monkeypatch, capsys):
    """Call with a file's builder and a command: its one line of error, which names the file."""

    def check(build, *command):
        (tmp_path / "made").mkdir()
        monkeypatch.chdir(tmp_path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sparse and quantised tensors
            path = build(tmp_path / "made", honest)
        before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
        code = main([argument.replace("FILE", str(path)) for argument in command])
        seconds, errors = time.process_time() - start, capsys.readouterr().err
        assert code == 2, errors
        assert errors.count("\n") == 1 and str(path) in errors and "Traceback" not in errors
        assert errors[:-1].isprintable()
        assert seconds < QUICK or seconds < YARDS * yard()
        assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < BYTES
        assert [entry.name for entry in tmp_path.iterdir()] == ["made"], "something was executed or written"
        assert list((tmp_path / "made").iterdir()) == [path]
        return errors

    return check
