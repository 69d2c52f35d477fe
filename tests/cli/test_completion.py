"""The completion script, asked by bash itself."""

import subprocess

import pytest

from zoo.cli.main import main

ASK = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
_shtab_zoo 2> /dev/null
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def script(tmp_path, capsys):
    assert main(["completion", "bash"]) == 0
    path = tmp_path / "zoo.bash"
    path.write_text(capsys.readouterr().out)
    return path


def test_bash_accepts_the_script(script):
    subprocess.run(["bash", "-n", script], check=True)


@pytest.mark.parametrize(
    "typed, offered",
    [
        (["va"], ["validate"]),
        (["benchmark", "con"], ["concat-add"]),
        (["train", "--weight-d"], ["--weight-decay", "--weight-decay-end"]),
        (["benchmark", "latency", "--round"], ["--rounds"]),
        (["export", "--precision", "i"], ["int8"]),
        (["inspect", "zoo.ba"], ["zoo.bash"]),
    ],
)
def test_commands_flags_choices_and_files_are_completed(script, typed, offered):
    done = subprocess.run(
        ["bash", "-c", ASK, "ask", script, "zoo", *typed], cwd=script.parent, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == offered
