"""`zoo`: one console script, one subcommand per job, each in the module of `zoo.cli` that it names."""

import difflib
import importlib
import sys

from zoo.cli.errors import UsageError, report

COMMANDS = {
    "train": ("train", "train a network and deploy it"),
    "validate": ("validate", "score a network on a labelled image set"),
    "benchmark": ("benchmark", "time networks, structures, operators"),
    "list": ("list", "show the registered networks"),
    "inspect": ("inspect", "show what a checkpoint or a network holds"),
    "deploy": ("deploy", "turn a train structure into the deployed one, with proof"),
    "expand": ("expand", "give a plain network branches, its function preserved"),
    "convert-checkpoint": ("convert_checkpoint", "rewrite a checkpoint of another layout"),
    "export": ("export", "write ONNX or OpenVINO files"),
}


def main(argv: list[str] | None = None) -> int:
    """Dispatch to a subcommand, importing only its module."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        print("usage: zoo COMMAND [OPTIONS]; zoo COMMAND --help shows the options\n")
        print("\n".join(f"  {name:{width}}  {text}" for name, (_, text) in COMMANDS.items()))
        return 0
    return report("zoo", lambda: _dispatch(argv[0], argv[1:]))


def _dispatch(command: str, argv: list[str]) -> int:
    if command not in COMMANDS:
        near = difflib.get_close_matches(command, COMMANDS, n=1)
        raise UsageError(f"no command {command!r}; {f'did you mean {near[0]}?' if near else 'zoo --help lists all'}")
    module = importlib.import_module(f"zoo.cli.{COMMANDS[command][0]}")
    return module.main(argv)


if __name__ == "__main__":
    sys.exit(main())
