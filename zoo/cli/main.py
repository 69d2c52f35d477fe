"""`zoo`, `python -m zoo`, train.py, validate.py, benchmark.py: one table of commands, one way to run them.

A command is a dataclass of settings, owned by the room that does the work and importable without torch, and a function
of this package that takes it and returns the results. The function's module is imported once the settings are read, so
that help and mistakes in flags take no time.
"""

import contextlib
import pkgutil
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import zoo
from zoo.cli.errors import UsageError, report
from zoo.nearest import did_you_mean


class Command(NamedTuple):
    """One command; the places are written `module:name`."""

    settings: str
    """its dataclass, whose docstring says what it does"""
    run: str
    """settings → results for `--json`, or None from a process that reports nothing"""
    base: str = ""
    """settings → the settings of the run that they continue, which take the place of the defaults"""

    @property
    def help(self) -> str:
        """What it does, in one line."""
        return pkgutil.resolve_name(self.settings).__doc__.split("\n")[0]


class Group(NamedTuple):
    """Commands under a common name."""

    help: str
    commands: "Mapping[str, Command | Group]"


PAPER = Command("zoo.paper.config:PaperConfig", "zoo.cli.paper:run")
BENCHMARK = Group(
    "Time networks, structures and operators.",
    {
        "latency": Command("zoo.bench.config:LatencyConfig", "zoo.cli.benchmark:run_latency"),
        "concat-add": Command("zoo.bench.config:ConcatAddConfig", "zoo.cli.benchmark:run_concat_add"),
        "train": Command("zoo.bench.config:TrainStepConfig", "zoo.cli.benchmark:run_train"),
        "profile": Command("zoo.bench.config:ProfileConfig", "zoo.cli.benchmark:run_profile"),
        "report": Command("zoo.bench.config:ReportConfig", "zoo.cli.benchmark:run_report"),
        "paper": PAPER,
    },
)
ZOO = Group(
    "An ImageNet zoo of networks that train with many branches and deploy as one convolution per block.",
    {
        "train": Command("zoo.engine.config:TrainConfig", "zoo.cli.train:run", "zoo.cli.train:settings_of_run"),
        "validate": Command("zoo.engine.config:ValidateConfig", "zoo.cli.validate:run"),
        "predict": Command("zoo.runtime.config:PredictConfig", "zoo.cli.predict:run"),
        "benchmark": BENCHMARK,
        "paper": PAPER,
        "list": Command("zoo.catalog:ListConfig", "zoo.cli.list:run"),
        "inspect": Command("zoo.checkpoints.config:InspectConfig", "zoo.cli.inspect:run"),
        "deploy": Command("zoo.surgery.config:DeployConfig", "zoo.cli.deploy:run"),
        "expand": Command("zoo.surgery.config:ExpandConfig", "zoo.cli.expand:run"),
        "convert-checkpoint": Command(
            "zoo.checkpoints.config:ConvertCheckpointConfig", "zoo.cli.convert_checkpoint:run"
        ),
        "export": Command("zoo.export.config:ExportConfig", "zoo.cli.export:run"),
        "completion": Command("zoo.cli.completion:CompletionConfig", "zoo.cli.completion:run"),
    },
)


def main(argv: list[str] | None = None, command: str | None = None) -> int:
    """Run a command: the one that `argv` starts with, or `command` for the script of that name.

    Returns: 0; 2 for bad input; 1 for a mishap; 128 + signal if interrupted.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    found: Command | Group = ZOO.commands[command] if command else ZOO
    prog = f"{command}.py" if command else "zoo"
    while isinstance(found, Group) and argv and argv[0] in found.commands:
        prog = f"{prog} {argv[0]}"
        found = found.commands[argv.pop(0)]
    act: Any = _answer if isinstance(found, Group) else _run
    return report(prog, lambda: act(found, argv, prog))


def _run(command: Command, argv: list[str], prog: str) -> int:
    from zoo.cli.config import parse  # not needed for the overview of commands

    settings_class = pkgutil.resolve_name(command.settings)
    settings = parse(settings_class, argv, prog)
    if command.base and (before := pkgutil.resolve_name(command.base)(settings)):
        settings = parse(settings_class, argv, prog, before)
    for_people = contextlib.redirect_stdout(sys.stderr) if "--json" in argv else contextlib.nullcontext()
    with for_people:
        results = pkgutil.resolve_name(command.run)(settings)
    if "--json" in argv and results is not None:
        from zoo.results.files import to_json

        print(to_json(results))
    return 0


def _answer(group: Group, argv: list[str], prog: str) -> int:
    """The overview of a group, or what only `zoo` itself is asked. Raises: UsageError."""
    if not argv or argv[0] in ("-h", "--help"):
        width = max(map(len, group.commands))
        print(f"usage: {prog} COMMAND [OPTIONS]; {prog} COMMAND --help shows the options\n\n{group.help}\n")
        print("\n".join(f"  {name:{width}}  {command.help}" for name, command in group.commands.items()))
    elif argv[0] == "--version":
        print(f"zoo {zoo.__version__}")
    else:
        what = "flag" if argv[0].startswith("-") else "command"
        near = did_you_mean(argv[0], group.commands, f"{prog} --help lists all", n=1)
        raise UsageError(f"no {what} {argv[0]!r}; {near}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
