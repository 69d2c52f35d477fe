"""Honest files of a run, and the check that a hostile one is refused."""

import resource
import time
import warnings

import pytest

from tests.support.training import small_run
from zoo.cli.main import main

YARDS, BYTES = 25, 2**30
"""What refusing a file may take: CPU time in yards, about 0.2 s each where nothing else runs, and memory."""
QUICK = 1.0
"""Seconds that no machine has to be measured for: fewer than 25 yards of the fastest."""


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
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(2):  # the first time modules may be imported, and coverage may stop watching what ran often
            start = time.process_time()
            code = main([argument.replace("FILE", str(path)) for argument in command])
            seconds, errors = time.process_time() - start, capsys.readouterr().err
            if quick := seconds < QUICK or seconds < YARDS * yard():
                break
        assert code == 2, errors
        assert errors.count("\n") == 1 and str(path) in errors and "Traceback" not in errors
        assert errors[:-1].isprintable()
        assert quick, f"{seconds:.1f} s of CPU time"
        assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < BYTES
        assert [entry.name for entry in tmp_path.iterdir()] == ["made"], "something was executed or written"
        assert list((tmp_path / "made").iterdir()) == [path]
        return errors

    return check
