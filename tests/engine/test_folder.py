"""One run at a time writes to a folder."""

import subprocess
import sys

import pytest

from tests.support.training import small_run
from zoo.engine.folder import locked

# Another process, which needs nothing of ours: it waits with the lock, or says whether it could have it.
HOLD = (
    "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); sys.stdin.read()"
)
TRY = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'a'), fcntl.LOCK_EX | fcntl.LOCK_NB)"


def test_a_second_run_in_a_folder_is_refused_until_the_first_has_died(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    command = [sys.executable, "-c", HOLD, str(folder / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        first.stdout.readline()
        with pytest.raises(ValueError, match=rf"^{folder}: another run is writing there: .*--output$"):
            small_run(folder)
        assert [path.name for path in folder.iterdir()] == [".lock"]
        first.kill()
    with locked(folder):
        pass


def test_a_run_keeps_others_out_while_it_lasts(tmp_path):
    attempt = [sys.executable, "-c", TRY, str(tmp_path / "run" / ".lock")]
    with locked(tmp_path / "run"):
        assert "BlockingIOError" in subprocess.run(attempt, capture_output=True, text=True).stderr
        (tmp_path / "run" / "last.pt").touch()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["last.pt"]
    assert subprocess.run(attempt).returncode == 0


def test_what_a_killed_run_left_half_written_goes(tmp_path):
    for name in (".tmp-last.pt", ".tmp-summary.csv", ".tmp-deployed.safetensors", ".tmp-mine"):
        (tmp_path / name).touch()
    with locked(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [".tmp-mine"]


def test_only_a_folder_that_the_run_made_goes_again(tmp_path):
    with locked(tmp_path / "new"):
        pass
    (tmp_path / "mine").mkdir()
    with locked(tmp_path / "mine"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
