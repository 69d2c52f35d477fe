"""`zoo completion SHELL`: print a script that completes commands, flags and choices.

bash: `eval "$(zoo completion bash)"`; zsh: the same, after `autoload -U compinit && compinit`.
"""

import argparse
import pkgutil
from dataclasses import dataclass
from typing import Literal

import shtab

from zoo.cli.config import parser_of
from zoo.cli.main import ZOO, Group
from zoo.settings import positional


@dataclass(kw_only=True)
class CompletionConfig:
    """Print a script that completes commands, flags and choices in bash or zsh.

    It is for `eval`: eval "$(zoo completion bash)".
    """

    shell: Literal["bash", "zsh"] = positional("SHELL")
    """bash or zsh"""


def run(config: CompletionConfig) -> dict[str, str]:
    """Print the script."""
    parser = argparse.ArgumentParser("zoo")
    _add_commands(parser, ZOO)
    script = shtab.complete(parser, config.shell)
    print(script)
    return {"shell": config.shell, "script": script}


def _add_commands(parser: argparse.ArgumentParser, group: Group) -> None:
    places = parser.add_subparsers()
    for name, command in group.commands.items():
        if isinstance(command, Group):
            _add_commands(places.add_parser(name, help=command.help, description=command.help), command)
            continue
        flags = parser_of(pkgutil.resolve_name(command.settings), name, choices=True)
        for action in flags._actions:
            if action.nargs != 0 and not action.choices and action.metavar not in ("N", "X"):
                action.complete = shtab.FILE  # type: ignore[attr-defined]
        places.add_parser(name, help=command.help, description=command.help, parents=[flags], add_help=False)
