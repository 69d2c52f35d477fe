"""One finished run of train.py for all tests of the commands."""

import runpy
import sys
from pathlib import Path

import pytest

from tests.support.processes import run_apart
from tests.support.training import SMALL

ROOT = Path(__file__).resolve().parents[2]


def run_train_py(flags):
    sys.argv = [str(ROOT / "train.py"), *flags]
    runpy.run_path(sys.argv[0], run_name="__main__")


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """A finished run of `train.py`: its folder, exit code and stdout."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "small.yaml").write_text(SMALL)
    flags = ["--config", str(folder / "small.yaml"), "--epochs", "1"]
    flags += ["--output", str(folder / "run"), "--results-file", str(folder / "results.json")]
    done = run_apart(run_train_py, flags, cwd=folder)
    assert done.code == 0, done.stderr
    return folder, done
