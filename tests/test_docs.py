"""Every code block of README and the documentation runs as it stands, in a folder with the files that it names."""

import re
import runpy
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

import zoo
from tests.support.imagenet import PHOTOS
from zoo.checkpoints.write import in_layout, save_deployed, save_weights
from zoo.cli.main import ZOO, Command, Group, main
from zoo.export import export_file
from zoo.models.repghostnet import STAGES
from zoo.network import example_input
from zoo.registry import _ENTRIES

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
PYTHON = Sybil(parsers=[PythonCodeBlockParser(), SkipParser()])
"""A page marks with `skip: next` what only runs beside another program, such as a server."""
WITH_PYTHON = [page for page in PAGES if "```python" in page.read_text()]
SHELL_BLOCK = re.compile(r"^```sh\n(.*?)^```", re.DOTALL | re.MULTILINE)
COMMAND_IN_TEXT = re.compile(r"`((?:zoo|python \w+\.py) [^`]+)`")
OTHERS = {"pip", "mkdocs", "pytest", "ruff", "pyright", "cd", "python3", "pre-commit"}
CHEAP = [["zoo", name] for name in ("list", "inspect", "convert-checkpoint")]
"""What is run; of other commands the flags are read."""


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """A folder with the files that the pages name, of fresh weights."""
    folder = tmp_path_factory.mktemp("files")
    repvgg, dbb, resnet = (zoo.create_model(name).eval() for name in ("repvgg_a0", "dbb_resnet18", "resnet18"))
    save_weights(folder / "RepVGG-A0-train.pth", in_layout(repvgg, repvgg, "repvgg_a0", "official"))
    save_weights(folder / "dbb_resnet18.pth", in_layout(dbb, dbb, "dbb_resnet18", "official"))
    save_weights(folder / "resnet18.pth", resnet.state_dict())
    deployed, report = zoo.deploy_with_report(repvgg)
    save_deployed(deployed, folder / "deployed.safetensors", "repvgg_a0", report)
    shutil.copy(folder / "deployed.safetensors", folder / "expanded.safetensors")
    tiny = zoo.create_model("repvgg_tiny").eval()
    export_file(tiny, folder / "repvgg.onnx", example_input(tiny))
    for photo in PHOTOS.glob("*.jpg"):
        shutil.copy(photo, folder)
    return folder


@pytest.mark.parametrize("page", WITH_PYTHON, ids=name_of)
def test_python_runs(page, files, monkeypatch):
    monkeypatch.chdir(files)
    monkeypatch.setattr("zoo.registry._ENTRIES", dict(_ENTRIES))  # what a page registers is gone after it
    monkeypatch.setattr("zoo.models.repghostnet.STAGES", tuple(rows[:1] for rows in STAGES))  # engines take a while
    monkeypatch.setitem(zoo.compile_for.__kwdefaults__, "seconds", 0.0)  # to take the deeper one
    for example in PYTHON.parse(page).examples():
        example.evaluate()


def commands_of(page: Path) -> Iterator[list[str]]:
    """The words of every command of ours on a page, in shell blocks and in the text."""
    text = page.read_text()
    lines = [line for block in SHELL_BLOCK.findall(text) for line in block.replace("\\\n", " ").splitlines()]
    for line in [*lines, *COMMAND_IN_TEXT.findall(text)]:
        for part in line.split("&&"):
            if words := shlex.split(part, comments=True):
                words[0] = Path(words[0]).name
                if words[0] in ("zoo", "torchrun", "python"):
                    yield words
                else:
                    assert words[0] in OTHERS, f"{page}: {part}"


COMMANDS = [(page, words) for page in PAGES for words in commands_of(page)]


def arguments(words: list[str]) -> list[str] | None:
    """The arguments of `zoo` that do what a command does; None for other programs."""
    if words[0] == "zoo":
        return words[1:]
    scripts = [i for i, word in enumerate(words) if word in ("train.py", "validate.py", "benchmark.py")]
    return [words[scripts[0]].removesuffix(".py"), *words[scripts[0] + 1 :]] if scripts else None


def without_work(group: Group) -> Group:
    """The same commands; each prints its settings in the place of doing anything."""
    commands: dict[str, Command | Group] = {}
    for name, command in group.commands.items():
        dry = without_work(command) if isinstance(command, Group) else command._replace(run="builtins:print", base="")
        commands[name] = dry
    return group._replace(commands=commands)


@pytest.mark.parametrize("page, words", COMMANDS, ids=lambda part: shlex.join(part) if isinstance(part, list) else "")
def test_the_flags_of_a_command_exist(page, words, monkeypatch, capsys):
    argv = arguments(words)
    if argv is None:
        return
    monkeypatch.setattr("zoo.cli.main.ZOO", without_work(ZOO))
    if words == ["zoo", *argv] and len(argv) == 1:  # only named in the text
        assert argv[0] in ZOO.commands or argv == ["--version"], name_of(page)
        return
    assert main(argv) == 0, f"{name_of(page)}: {capsys.readouterr().err}"


RUN = sorted({tuple(words) for _, words in COMMANDS if words[:2] in CHEAP and len(words) != 2 and "NAME" not in words})


@pytest.mark.parametrize("words", [("zoo", "list"), *RUN], ids=" ".join)
def test_cheap_commands_run(words, files, monkeypatch):
    monkeypatch.chdir(files)
    assert main(list(words[1:])) == 0


def test_there_are_blocks_to_run():
    assert len(WITH_PYTHON) >= 8
    assert len(COMMANDS) >= 40


def run_tool(name: str, *argv: str) -> int:
    """The exit status of a tool, run in this process, which has imported torch already."""
    with pytest.MonkeyPatch.context() as patch, matplotlib.rc_context():
        patch.setattr(sys, "argv", [name, *argv])
        try:
            runpy.run_path(str(ROOT / "tools" / name), run_name="__main__")
        except SystemExit as done:
            return int(done.code or 0)
    return 0


@pytest.mark.slow
def test_the_tables_are_what_the_data_say():
    assert run_tool("docs_tables.py", "--check") == 0, "run tools/docs_tables.py"


def test_every_picture_is_drawn_by_the_tool(tmp_path):
    assert run_tool("docs_pictures.py", str(tmp_path)) == 0
    drawn = {path.name for path in tmp_path.iterdir()}
    assert drawn == {path.name for path in (ROOT / "docs" / "pictures").iterdir()}
    text = "\n".join(page.read_text() for page in PAGES)
    assert all(f"pictures/{name})" in text for name in drawn)
