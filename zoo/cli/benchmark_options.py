"""The flags of `benchmark.py`."""

from __future__ import annotations

import argparse
from typing import NoReturn

from zoo.cli.errors import UsageError

STRUCTURES = ("peer", "train", "folded", "deployed")
PRECISIONS = ("fp32", "bf16", "fp16", "int8")
LAYOUTS = ("nchw", "nhwc")
COMPARISONS = ("operator", "module", "network")


class _Parser(argparse.ArgumentParser):
    """Mistakes are exceptions, so that they end up as one line like all others."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} ({self.prog} --help shows the options)")


class _Defaults(argparse.ArgumentDefaultsHelpFormatter):
    """Defaults in the help of every flag that has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return super()._get_help_string(action) if action.default not in (None, False) else action.help


def parser() -> argparse.ArgumentParser:
    top = _Parser(prog="benchmark.py", description="Measure networks. The last line of stdout is JSON.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)

    def command(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text, formatter_class=_Defaults)

    latency = command("latency", "inference: structures x engines x precisions, interleaved")
    _add_models(latency)
    latency.add_argument("--structure", nargs="+", default=list(STRUCTURES), choices=STRUCTURES, help="to be timed")
    latency.add_argument("--engine", nargs="+", metavar="NAME", help="default: eager and the engines installed")
    latency.add_argument("--precision", nargs="+", default=["fp32"], choices=PRECISIONS, help="of every engine")
    latency.add_argument("--checkpoint", help="weights of the one model given; random ones otherwise")
    latency.add_argument(
        "--together", action="store_true", help="time the models against each other, the first being the reference"
    )
    latency.add_argument("--repeat", type=int, default=1, help="run all of it so often, and compare the runs' ratios")
    _add_settings(latency, batch_sizes=[1, 8])

    joins = command("concat-add", "Concat vs Add: operators, Ghost modules, GhostNet and RepGhostNet")
    joins.add_argument("--engine", nargs="+", metavar="NAME", help="default: eager and the engines installed")
    joins.add_argument("--layout", nargs="+", default=list(LAYOUTS), choices=LAYOUTS, help="of the operators' maps")
    joins.add_argument(
        "--comparison", nargs="+", default=list(COMPARISONS), choices=COMPARISONS, help="networks: up to batch 32"
    )
    joins.add_argument("--width", nargs="+", type=float, default=[1.0], choices=(0.5, 1.0, 1.3), help="of networks")
    _add_settings(joins, batch_sizes=[1, 2, 4, 8, 16, 32, 64, 128, 256], rounds=20, seconds=2)

    train = command("train", "training steps: train structure, plain twin, timm's network")
    _add_models(train)
    structures = ("plain", "train", "peer")
    train.add_argument("--structure", nargs="+", default=list(structures), choices=structures, help="to be timed")
    train.add_argument("--layout", nargs="+", default=["nhwc"], choices=LAYOUTS, help="of all but peer")
    train.add_argument("--precision", nargs="+", default=["fp32"], choices=("fp32", "bf16"), help="bf16: autocast")
    _add_settings(train, batch_sizes=[32], img_sizes=[160], rounds=20)

    profile = command("profile", "time per layer and branch, train structure beside deployed")
    _add_models(profile)
    profile.add_argument(
        "--structure", nargs="+", default=["train", "deployed"], choices=STRUCTURES, help="to be timed"
    )
    _add_settings(profile, batch_sizes=[1], rounds=30)

    tables = command("report", "tables and pictures of result files")
    tables.add_argument("results", nargs="+", metavar="FILE", help="JSON files of --results-file")
    tables.add_argument("--output", default="report.html", metavar="FILE", help=".html, .md, .csv or .png")
    commands.add_parser("paper", help="a published table beside ours: benchmark.py paper --help")
    return top


def _add_models(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", nargs="+", required=True, metavar="NAME", help="names or patterns; timm/NAME")


def _add_settings(
    parser: argparse.ArgumentParser,
    *,
    batch_sizes: list[int],
    img_sizes: list[int] | None = None,
    rounds: int = 50,
    seconds: float = 60,
) -> None:
    positive = _positive
    parser.add_argument("--batch-size", nargs="+", type=positive, default=batch_sizes, metavar="N", help="images")
    parser.add_argument("--img-size", nargs="+", type=positive, default=img_sizes or [224], metavar="N", help="pixels")
    parser.add_argument("--threads", nargs="+", type=positive, default=[1], metavar="N", help="of the CPU")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="where to run")
    parser.add_argument("--rounds", type=int, default=rounds, help="samples per contender, at most")
    parser.add_argument("--seconds", type=float, default=seconds, help="time bound of each interleaved group")
    parser.add_argument("--warmup-seconds", type=float, default=3.0, help="bound of each contender's warm-up")
    parser.add_argument("--results-file", metavar="FILE", help="JSON, the input of `benchmark.py report`")
    parser.add_argument("--report", metavar="FILE", help="also write .html, .md, .csv or .png")


def _positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return value
