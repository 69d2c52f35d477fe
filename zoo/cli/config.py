"""Flags and YAML → the dataclass of a command.

Order of precedence: defaults, then the files of `--config` from left to right, then flags. argparse splits the command
line, msgspec gives each value its type and checks its bounds. Every mistake is one line that names the file (or the
command line), the key and the nearest key that exists; exit code 2.
"""

import argparse
import dataclasses
import math
import os
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec
from docstring_parser import parse_from_object

from zoo.cli.errors import UsageError
from zoo.cli.recipe import read_recipe, read_yaml
from zoo.nearest import did_you_mean
from zoo.resources import find_config

Settings = TypeVar("Settings")
COMMAND_LINE = "command line"


class Setting(NamedTuple):
    """A field of a command, or of one of its sections."""

    section: str
    """name of the field that holds the section; empty for a field of the command itself"""
    field: dataclasses.Field[Any]
    hint: Any
    type: Any
    """the hint without its bounds and without None"""
    meta: msgspec.Meta
    """the bounds"""
    help: str


def parse(
    settings_class: type[Settings], argv: list[str], prog: str, base: Mapping[str, Any] | None = None
) -> Settings:
    """Read `argv` (flags with dashes or underscores, any number of `--config FILE`) into `settings_class`.

    Args:
        settings_class: a dataclass of settings, and of sections: dataclasses of settings. No two have the same name.
        base: settings that take the place of the defaults (those of a run that is continued).

    Raises:
        UsageError: unknown key, wrong type, value out of range, unreadable file, an output nobody can write.
        SystemExit: `--help`.
    """
    settings = settings_of(settings_class)
    words = vars(_read_flags(parser_of(settings_class, prog), argv, settings))
    given = {key: ("settings of the run", value) for key, value in (base or {}).items()}
    for file in map(find_config, words.pop("config", [])):
        for key, value in read_recipe(file).items():
            if key not in settings:
                raise UsageError(f"{file}: unknown key '{key}'; {did_you_mean(key, settings, '--help lists all', n=1)}")
            if value is None:
                raise UsageError(f"{file}: {key}: no value given (leave the line out for the default)")
            given[key] = (str(file), value)
    given |= {key: (COMMAND_LINE, value) for key, value in words.items() if key in settings}
    values = {key: _convert(source, settings[key], value) for key, (source, value) in given.items()}
    for changes in (values.get("progressive") or {}).values():  # its values are settings too
        for key in changes.keys() & settings.keys():
            changes[key] = _convert(given["progressive"][0], settings[key], changes[key])
    if missing := [_spelled(one) for one in settings.values() if _is_required(one) and one.field.name not in values]:
        raise UsageError(f"{COMMAND_LINE}: required: {', '.join(missing)} ({prog} --help shows the options)")
    _check_written({key: values[key] for key in values if (settings[key].meta.extra or {}).get("written")})
    return _assemble(settings_class, settings, values)


def settings_of(settings_class: type) -> dict[str, Setting]:
    """Every setting of a command by its name."""
    found: dict[str, Setting] = {}
    for section, of_section in [("", settings_class), *_sections(settings_class)]:
        hints = get_type_hints(of_section, include_extras=True)
        bases = [base for base in reversed(of_section.__mro__) if dataclasses.is_dataclass(base)]
        text = {param.arg_name: param.description or "" for base in bases for param in parse_from_object(base).params}
        for field in dataclasses.fields(of_section):
            if not dataclasses.is_dataclass(hints[field.name]):
                bare, meta = _unwrap(hints[field.name])
                name = field.name
                found[name] = Setting(section, field, hints[name], bare, meta, text.get(name, ""))
    return found


def parser_of(settings_class: type, prog: str, choices: bool = False) -> argparse.ArgumentParser:
    """The flags of a command; `choices` are told to argparse for shell completion only, msgspec checks them."""
    settings = settings_of(settings_class)
    positionals = [setting.field.metadata.get("positional", "") for setting in settings.values()]
    parser = _Parser(
        prog=prog,
        usage=" ".join([prog.replace("%", "%%"), "[OPTIONS]", *filter(None, positionals)]),
        description=settings_class.__doc__,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config", metavar="FILE", action="append", help="YAML file or recipe; may be given several times"
    )
    parser.add_argument(
        "--json", action="store_true", help="print the results as JSON, and what is for people to stderr"
    )
    titles = {name: (section.__doc__ or "").split("\n")[0].rstrip(".") for name, section in _sections(settings_class)}
    groups = {name: parser.add_argument_group(title) for name, title in titles.items()}
    for setting in settings.values():
        _add_flag(groups.get(setting.section, parser), setting, choices)
    return parser


class _Parser(argparse.ArgumentParser):
    """Mistakes are exceptions, so that they end up as one line like all others."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{COMMAND_LINE}: {message} ({self.prog} --help shows the options)")


def _add_flag(group: Any, setting: Setting, choices: bool) -> None:
    name, default = setting.field.name, setting.field.default
    if setting.field.default_factory is not dataclasses.MISSING:
        default = setting.field.default_factory()
    literals = _literals(setting.type)
    kind: dict[str, Any] = {"help": setting.help}
    if default is not dataclasses.MISSING and default not in (None, False, "", [], {}):
        shown = " ".join(map(str, default)) if isinstance(default, list) else default
        kind["help"] = f"{setting.help} (default: {shown})"
    kind["help"] = kind["help"].replace("%", "%%")
    if literals:
        kind |= {"choices": literals} if choices else {"metavar": f"{{{','.join(literals)}}}"}
    elif setting.type in (int, float):
        kind["metavar"] = "N" if setting.type is int else "X"
    elif setting.meta.extra:
        kind["metavar"] = "FILE"
    if get_origin(setting.type) is list:
        kind["nargs"] = "+"
    if metavar := setting.field.metadata.get("positional"):
        several = "*" if "nargs" in kind else "?"  # or none: it may stand in a file of --config
        group.add_argument(name, **kind | {"metavar": metavar, "nargs": several})
        return
    if setting.type is bool:
        kind["action"] = argparse.BooleanOptionalAction
    group.add_argument(_flag(name), *(["-o"] if name == "output" else []), **kind)


def _read_flags(
    parser: argparse.ArgumentParser, argv: list[str], settings: Mapping[str, Setting]
) -> argparse.Namespace:
    """Split the command line into settings and the words given for them. Raises: UsageError."""
    spelled = []
    for word in argv:
        flag, equals, value = word.partition("=")
        flag = flag.replace("_", "-") if word.startswith("--") else flag
        spelled.append(f"{flag}{equals}{value}")
        if word.startswith("--") and flag not in ("--", *parser._option_string_actions):
            near = did_you_mean(flag, map(_flag, settings), "--help lists all", n=1)
            raise UsageError(f"{COMMAND_LINE}: unknown flag {flag}; {near}")
    return parser.parse_args(spelled)


def _convert(source: str, setting: Setting, value: Any) -> Any:
    """A value from a file or the command line as the type of its setting. Raises: UsageError."""
    name = setting.field.name
    is_files = setting.field.metadata.get("positional") and source == COMMAND_LINE  # their names may have commas
    if get_origin(setting.type) is list and not is_files:
        parts = value if isinstance(value, list) else [value]
        if len(parts) == 1 and isinstance(parts[0], str) and parts[0].startswith("[") and parts[0].endswith("]"):
            parts = [parts[0][1:-1]]
        value = [item for part in parts for item in _items(part)]
    elif get_origin(setting.type) is dict and isinstance(value, str):
        value = read_yaml(value, f"{source}: {name}")
    try:
        converted = msgspec.convert(value, setting.hint, strict=False)
        if all(math.isfinite(number) for number in _floats(converted)):
            return converted
        problem = "Expected a finite number"
    except msgspec.ValidationError as error:
        problem = str(error)
    shown = value[0] if isinstance(value, list) and len(value) == 1 else value
    near = did_you_mean(str(shown), _literals(setting.type), n=1)
    raise UsageError(f"{source}: {name}: {_expected(setting, problem)}, got {shown!r}{near and f'; {near}'}")


def _items(value: Any) -> list[Any]:
    """`0.2, 1` is two items."""
    if not isinstance(value, str):
        return [value]
    return [item.strip().strip("'\"") for item in value.split(",") if item.strip()]


def _floats(value: Any) -> Iterator[float]:
    """Every floating-point number in a value."""
    if isinstance(value, float):
        yield value
    elif isinstance(value, list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _floats(item)


def _expected(setting: Setting, problem: str) -> str:
    """msgspec's message, without the part that repeats the value, in the words of the setting where it has some."""
    if literals := _literals(setting.type):
        return f"expected one of {', '.join(literals)}"
    if setting.meta.description:
        return f"expected {setting.meta.description}"
    what = problem.partition(", got")[0].partition(" - at")[0].replace("`", "").replace(" | null", "")
    return what[0].lower() + what[1:]


def _literals(hint: Any) -> list[str]:
    """The words that a setting, or each item of its list, may be."""
    if get_origin(hint) is list:
        return _literals(_unwrap(get_args(hint)[0])[0])
    return list(map(str, get_args(hint))) if get_origin(hint) is Literal else []


def _unwrap(hint: Any) -> tuple[Any, msgspec.Meta]:
    """Take `Annotated[…]` and `… | None` off a type; also gives the bounds."""
    meta = msgspec.Meta()
    while get_origin(hint) in (Annotated, Union, types.UnionType):
        if get_origin(hint) is Annotated:
            hint, meta = get_args(hint)[:2]
        else:
            hint = next(arg for arg in get_args(hint) if arg is not type(None))
    return hint, meta


def _check_written(files: Mapping[str, str | None]) -> None:
    """Refuse what nobody can write, and two outputs in one file, before the work. Raises: UsageError."""
    flags: dict[Path, str] = {}
    for name, file in files.items():
        if file is None:
            continue
        path = Path(file).resolve()
        if not path.parent.is_dir():
            raise UsageError(f"the folder of {file} does not exist")
        if not os.access(path.parent, os.W_OK):
            raise UsageError(f"the folder of {file} may not be written to")
        if (before := flags.setdefault(path, name)) != name:
            raise UsageError(f"{_flag(name)} and {_flag(before)} both name {file}")


def _assemble(settings_class: type[Settings], settings: Mapping[str, Setting], values: Mapping[str, Any]) -> Settings:
    def of(section: str) -> dict[str, Any]:
        return {name: value for name, value in values.items() if settings[name].section == section}

    try:
        sections = {name: section(**of(name)) for name, section in _sections(settings_class)}
        return settings_class(**of(""), **sections)
    except ValueError as error:  # settings that contradict each other
        raise UsageError(str(error)) from None


def _sections(settings_class: type) -> list[tuple[str, type]]:
    hints = get_type_hints(settings_class)
    return [(name, hint) for name, hint in hints.items() if dataclasses.is_dataclass(hint)]  # type: ignore[misc]


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _is_required(setting: Setting) -> bool:
    return setting.field.default is setting.field.default_factory is dataclasses.MISSING


def _spelled(setting: Setting) -> str:
    return setting.field.metadata.get("positional", _flag(setting.field.name))
