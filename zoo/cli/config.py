"""Flags and YAML → the dataclasses of `zoo.engine.config`.

Order of precedence: defaults, then the files of `--config` from left to right, then flags. Every mistake is
one line that names the file (or the command line), the key and the nearest key that exists; exit code 2.
"""

import dataclasses
import difflib
import json
import re
from argparse import ArgumentError
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import yaml
from docstring_parser import parse_from_object
from jsonargparse import ActionYesNo, ArgumentParser

from zoo.cli.errors import UsageError
from zoo.resources import find_config

Config = TypeVar("Config")
COMMAND_LINE = "command line"


def parse(
    config_class: type[Config],
    argv: list[str],
    prog: str,
    description: str = "",
    base: dict[str, Any] | None = None,
) -> Config:
    """Read `argv` (flags with dashes or underscores, any number of `--config FILE`) into `config_class`.

    Args:
        config_class: a dataclass whose fields are dataclasses of settings, no two of the same name.
        base: settings that take the place of the defaults (those of a run that is continued).

    Raises:
        UsageError: unknown key, wrong type, value out of range, unreadable file.
        SystemExit: `--help`.
    """
    sections: dict[str, Any] = get_type_hints(config_class)
    hints = {name: hint for section in sections.values() for name, hint in get_type_hints(section).items()}
    parser = _parser(sections, prog, description)
    parser.set_defaults(base or {})
    files, argv = _take_config_files(argv)
    argv, flags = _normalise_flags(argv, hints)

    source = dict.fromkeys(hints, COMMAND_LINE)
    for file in files:
        values = _read_yaml(file, hints)
        parser.set_defaults({key: _typed(parser, str(file), key, value, hints) for key, value in values.items()})
        source |= dict.fromkeys(values, str(file))
    source |= dict.fromkeys(flags, COMMAND_LINE)
    try:
        namespace = parser.parse_args(argv)
    except ArgumentError as error:
        raise UsageError(_explain(error, COMMAND_LINE, hints)) from None

    settings = {setting.name: setting for section in sections.values() for setting in dataclasses.fields(section)}
    for name, setting in settings.items():
        _check_bounds(source[name], setting, namespace[name])
    for changes in namespace.get("progressive", {}).values():  # its values are settings too
        for name in changes.keys() & hints.keys():
            changes[name] = _typed(parser, source["progressive"], name, changes[name], hints)
            _check_bounds(source["progressive"], settings[name], changes[name])
    return config_class(
        **{
            name: section(**{setting.name: namespace[setting.name] for setting in dataclasses.fields(section)})
            for name, section in sections.items()
        }
    )


def flatten(sections: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The settings of all sections in one dict."""
    return {key: value for section in sections.values() for key, value in section.items()}


def _parser(sections: dict[str, Any], prog: str, description: str) -> ArgumentParser:
    parser = ArgumentParser(prog=prog, description=description, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--config", metavar="FILE", help="YAML file or name of a recipe; may be given several times")
    for section in sections.values():
        doc = parse_from_object(section)
        group = parser.add_argument_group((doc.short_description or "").rstrip("."))
        text = {param.arg_name: param.description for param in doc.params}
        for setting in dataclasses.fields(section):
            is_list = setting.default is dataclasses.MISSING
            kind: dict[str, Any] = {"type": get_type_hints(section)[setting.name]}
            if kind["type"] is bool:
                kind = {"action": ActionYesNo(yes_prefix="", no_prefix="no-")}
            default = setting.default_factory() if is_list else setting.default  # type: ignore[misc] (no default: a factory)
            group.add_argument(_flag(setting.name), default=default, help=text[setting.name], **kind)
    return parser


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _take_config_files(argv: list[str]) -> tuple[list[Path], list[str]]:
    files, rest, args = [], [], iter(argv)
    for arg in args:
        if arg == "--config":
            files.append(find_config(next(args, "")))
        elif arg.startswith("--config="):
            files.append(find_config(arg.removeprefix("--config=")))
        else:
            rest.append(arg)
    return files, rest


def _normalise_flags(argv: list[str], hints: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Every flag with dashes, every list with brackets; and the names of the settings that were given."""
    spelled, given, name = [], [], ""
    for arg in argv:
        if arg.startswith("--"):
            flag, equals, value = arg.partition("=")
            flag = flag.replace("_", "-")
            name = flag[2:].replace("-", "_")
            if name not in hints and name.removeprefix("no_") in hints and hints[name.removeprefix("no_")] is bool:
                name = name.removeprefix("no_")
            if name not in hints and name != "help":
                raise UsageError(f"{COMMAND_LINE}: unknown flag {flag}{_near(flag, [_flag(n) for n in hints])}")
            given.append(name)
            arg = f"{flag}={_bracket(value, hints.get(name))}" if equals else flag
        else:
            arg = _bracket(arg, hints.get(name))
        spelled.append(arg)
    return spelled, given


def _bracket(value: Any, hint: Any) -> Any:
    """`0.4` and `none,rot90` are lists where a list is wanted; strings are quoted, as `*` and `!` mean much in YAML."""
    if get_origin(hint) is not list or isinstance(value, list):
        return value
    if not isinstance(value, str):
        return [value]
    if hint == list[str] and not value.startswith("["):
        return json.dumps([item.strip() for item in value.split(",") if item.strip()])
    return value if value.startswith("[") else f"[{value}]"


def _read_yaml(file: Path, hints: dict[str, Any]) -> dict[str, Any]:
    try:
        values = yaml.safe_load(file.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{file}: not readable as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise UsageError(f"{file}: expected lines 'key: value', got {type(values).__name__}")
    for key in values:
        if key not in hints:
            raise UsageError(f"{file}: unknown key '{key}'{_near(str(key), list(hints))}")
    return values


def _near(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else "; --help lists all"


def _typed(parser: ArgumentParser, file: str, key: str, value: Any, hints: dict[str, Any]) -> Any:
    if value is None:
        raise UsageError(f"{file}: {key}: no value given (leave the line out for the default)")
    try:
        return parser.parse_object({key: _bracket(value, hints[key])}, defaults=False)[key]
    except ArgumentError as error:
        raise UsageError(_explain(error, file, hints, key)) from None


def _explain(error: ArgumentError, source: str, hints: dict[str, Any], name: str = "") -> str:
    """One line from a message of jsonargparse: `file: key: expected int, got 'x'`."""
    message = " ".join(str(error).split())
    key, value = re.search(r'key "(\w+)"', message), re.search(r"(?:Got|Given) value: (.*)$", message)
    if not key or not value:
        return f"{source}: {name}: {message}" if name else f"{source}: {message}"
    hint = hints[key[1]]
    if type(None) in get_args(hint):
        hint = get_args(hint)[0]
    expected = hint.__name__ if isinstance(hint, type) and not get_origin(hint) else str(hint)
    expected = expected.replace("typing.", "")
    if expected.startswith("Literal"):
        expected = "one of " + expected.removeprefix("Literal[").removesuffix("]").replace("'", "")
    return f"{source}: {key[1]}: expected {expected}, got '{value[1]}'{_near_choice(value[1], hint)}"


def _near_choice(value: str, hint: Any) -> str:
    choices = [choice for choice in getattr(hint, "__args__", ()) if isinstance(choice, str)]
    near = difflib.get_close_matches(value, choices, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _check_bounds(source: str, setting: dataclasses.Field[Any], value: Any) -> None:
    low, high = setting.metadata.get("low"), setting.metadata.get("high")
    if value is None or ((low is None or value >= low) and (high is None or value <= high)):
        return
    wanted = f"at least {low}" if high is None else f"between {low} and {high}"
    raise UsageError(f"{source}: {setting.name}: must be {wanted}, got {value}")
