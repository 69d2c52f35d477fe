"""Write each family's smallest network in every format that can be written here: error, size, time to write, latency.

    python tools/format_survey.py --output results/formats.json

Networks have random weights and the BatchNorm statistics of one batch, so that errors are those of a network whose
maps neither vanish nor overflow. The results are written after every network; a second run goes on where the first
stopped, and with the formats whose packages have been installed since.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

import zoo
from zoo.bench.statistics import summarize
from zoo.bench.structures import settle_norms
from zoo.bench.timing import Plan, interleave
from zoo.catalog import catalog
from zoo.export import export_file
from zoo.export.engines import Run, missing_package
from zoo.export.files import FORMATS
from zoo.network import example_input
from zoo.results.files import read_result, result_of, to_json, write_result
from zoo.results.surveys import Exported

PLAN = Plan(rounds=15, seconds=30.0, warmup_seconds=2.0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("results/formats.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    known: list[Exported] = read_result(options.output).records if options.output.is_file() else []
    records = {(record.network, record.format): record for record in known if record.status == "ok"}
    for network in smallest():
        missing = [name for name in written_here() if (network, name) not in records]
        for record in survey(network, missing) if missing else ():
            records[network, record.format] = record
            print(to_json(record), file=sys.stderr)
        write_result(options.output, result_of("formats", list(records.values())))
    return 0


def smallest() -> list[str]:
    """The network with the fewest parameters of every registered family, deployed."""
    families: dict[str, str] = {}
    for name, row in sorted(catalog().items(), key=lambda item: item[1]["params"][1]):
        families.setdefault(row["family"], name)
    return list(families.values())


def written_here() -> list[str]:
    """The formats whose packages are installed."""
    return [name for name, kind in FORMATS.items() if kind.package is None or missing_package(kind.package) is None]


def survey(network: str, formats: Sequence[str]) -> list[Exported]:
    """Write one network in all formats, then time the files in turn."""
    torch.manual_seed(0)
    model = zoo.create_model(network).eval()
    example = example_input(model)
    settle_norms(model, example)
    deployed = zoo.deploy(model)
    records, runs = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for name in formats:
            record, run = write(deployed, network, example, name, Path(folder))
            records.append(record)
            if run is not None:
                runs[name] = run
        calls: dict[str, Callable[[], object]] = {name: bound(run, example) for name, run in runs.items()}
        timings = interleave(calls, PLAN)
    for record in records:
        if record.format in runs:
            record.time = summarize(timings.samples[record.format])
    return records


def write(model: nn.Module, network: str, example: Tensor, name: str, folder: Path) -> tuple[Exported, Run | None]:
    """Write one file; the record says what came of it. Gives what runs the file, if anything here does."""
    record = Exported(network=network, format=name, img_size=example.shape[-1])
    kind, start = FORMATS[name], time.perf_counter()
    path = folder / f"{name}{kind.suffix}"
    try:
        file = export_file(model, path, example, format=name)
    except (ValueError, RuntimeError) as error:
        record.status, record.error = "failed", f"{type(error).__name__}: {error}".splitlines()[0][:200]
        return record, None
    record.seconds, record.bytes = round(time.perf_counter() - start, 1), file.num_bytes
    if name == "executorch":
        record.outside = {kind: n for kind, n in file.nodes.items() if kind != "executorch_call_delegate"}
    if file.parity is None:
        record.warning = f"not compared: {file.unchecked}"
        return record, None
    record.relative_error = file.parity.max_relative_error
    return record, kind.read(path, "fp32")


def bound(run: Run, example: Tensor) -> Callable[[], object]:
    return lambda: run(example)


if __name__ == "__main__":
    sys.exit(main())
