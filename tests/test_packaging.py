"""The wheel holds what an installed zoo needs, and files are written whole or not at all."""

import os
import resource
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.support.processes import run_apart
from zoo.atomic import atomic_write
from zoo.resources import configs_folder, find_config, list_configs

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """A wheel built from the checkout."""
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(out)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def names(wheel) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_holds_code_recipes_data_and_licences(names):
    tracked = {path.relative_to(ROOT).as_posix() for path in (ROOT / "zoo").rglob("*.py")}
    assert tracked <= names
    recipes = {f"zoo/configs/{path.relative_to(ROOT / 'configs').as_posix()}" for path in configs()}
    assert recipes
    assert recipes <= names
    assert {
        "zoo/py.typed",
        "zoo/data/bundled/fashion_train.png",
        "zoo/data/bundled/fashion_val.png",
        "zoo/data/bundled/LICENSE",
    } <= names
    assert any(name.endswith("dist-info/licenses/LICENSE") for name in names)


def test_the_wheel_installs_nothing_but_zoo(names):
    assert {name.split("/")[0].split("-")[0] for name in names} == {"zoo", "reparam_zoo"}


def test_recipes_and_data_are_found_outside_the_checkout(wheel, tmp_path):
    """What the wheel holds, unpacked as pip does, run from another folder."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    program = (
        "import zoo\n"
        "from zoo.data import create_dataset\n"
        "from zoo.resources import find_config\n"
        "print(zoo.__file__)\n"
        "print(find_config('configs/quickstart.yaml'))\n"
        "print(len(create_dataset('fashion')))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    site = tmp_path / "site" / "zoo"
    assert run.stdout.splitlines() == [f"{site}/__init__.py", f"{site}/configs/quickstart.yaml", "5000"]


def configs() -> list[Path]:
    return sorted((ROOT / "configs").rglob("*.yaml"))


def test_a_recipe_is_found_by_name_by_checkout_path_and_by_file(tmp_path):
    assert configs_folder() == ROOT / "configs"
    assert len(list_configs()) == len(configs())
    quickstart = ROOT / "configs" / "quickstart.yaml"
    for name in ("quickstart", "quickstart.yaml", "configs/quickstart.yaml", quickstart):
        assert find_config(name).resolve() == quickstart
    mine = tmp_path / "mine.yaml"
    mine.write_text("epochs: 1\n")
    assert find_config(mine) == mine


def test_an_unknown_recipe_lists_near_ones():
    with pytest.raises(ValueError, match=r"no configuration 'quickstrat'.*did you mean quickstart"):
        find_config("quickstrat")


def test_a_name_unlike_any_recipe_is_told_where_they_are():
    with pytest.raises(ValueError) as caught:
        find_config("/no/such/ÿÿÿ.yaml")
    assert str(caught.value).endswith(f"; the {len(list_configs())} recipes are in {configs_folder()}")


def test_an_atomic_write_replaces_the_file_at_the_end(tmp_path):
    path = tmp_path / "state.json"
    path.write_text("old")
    with atomic_write(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.suffix == ".json"
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["state.json"]


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "state"
    path.write_text("old")

    def write() -> None:
        with atomic_write(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("not about writing")

    with pytest.raises(RuntimeError, match="not about writing"):
        write()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["state"]


def die_while_writing(path: Path) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text("x")
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_leftover_of_a_killed_process_is_no_obstacle(tmp_path):
    path = tmp_path / "state"
    assert run_apart(die_while_writing, path).code == -signal.SIGKILL
    assert not path.exists()
    with atomic_write(path) as temporary:
        temporary.write_text("whole")
    assert path.read_text() == "whole"
    assert os.listdir(tmp_path) == ["state"]


def test_every_file_has_the_mode_of_the_users_umask_whoever_writes_it(tmp_path):
    before = os.umask(0o027)
    try:
        with atomic_write(tmp_path / "ours.txt") as temporary:
            temporary.write_text("")
        with atomic_write(tmp_path / "theirs.safetensors") as temporary:
            save_file({"weight": torch.zeros(1)}, temporary)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o640}


def test_a_missing_folder_is_named_in_one_line(tmp_path):
    path = tmp_path / "no" / "state"

    def write() -> None:
        with atomic_write(path) as temporary:
            temporary.write_text("")

    with pytest.raises(OSError, match=rf"^cannot write {path}: its folder does not exist$"):
        write()


def fill_the_disk(path: Path) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20000, limits[1]))
    state = {"weight": torch.zeros(100000)}
    writers: list[Callable[[Path], object]] = [
        lambda file: file.write_text("x" * 10**6),
        lambda file: torch.save(state, file),
        lambda file: save_file(state, file),
    ]
    for write in writers:
        try:
            with atomic_write(path) as temporary:
                write(temporary)
        except OSError as error:
            print(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)  # for what else the process writes at its end


def test_a_full_disk_is_named_in_one_line_whoever_writes(tmp_path):
    """A limit on the size of files, in a child process, stands for the full disk."""
    path = tmp_path / "state"
    path.write_text("old")
    run = run_apart(fill_the_disk, path)
    assert run.code == 0, run.stderr
    lines = run.stdout.splitlines()
    assert len(lines) == 3
    assert all(line.startswith(f"cannot write {path}: ") for line in lines)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["state"]


@pytest.mark.parametrize("program", ["train", "validate", "benchmark"])
def test_the_wrappers_stay_thin(program):
    assert len((ROOT / f"{program}.py").read_text().splitlines()) <= 15


def test_the_list_of_slow_tests_names_tests():
    for line in (ROOT / "tests" / "slow.txt").read_text().splitlines():
        if not line.startswith("#"):
            file, _, name = line.partition("::")
            assert f"def {name.partition('[')[0]}(" in (ROOT / file).read_text(), line
