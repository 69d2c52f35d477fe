"""The outcome of a measurement, put into its records: times, or why there are none."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from zoo.bench.memory import bounded_memory
from zoo.bench.statistics import summarize
from zoo.bench.timing import Timings
from zoo.export.torch_engines import torch_threads
from zoo.mishaps import first_line, is_out_of_memory
from zoo.results.records import Record, Timed


@contextmanager
def measuring(records: Sequence[Record], threads: int, expected: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Measure within on so many threads; memory that runs out is the outcome of all records, and ends the block.

    Args:
        expected: Other errors of which this is true.
    """
    try:
        with torch_threads(threads), bounded_memory():
            yield
    except (RuntimeError, MemoryError, *expected) as error:
        if not (is_out_of_memory(error) or isinstance(error, expected)):
            raise
        for record in records:
            note_failure(record, error)


def note_times(record: Timed, timings: Timings, name: str) -> None:
    """Put a contender's times into its record."""
    samples = timings.samples[name]
    record.time = summarize(samples)
    record.samples = [float(f"{s:.5g}") for s in samples]
    record.other_cpus = sum(timings.other_cpu[name]) / len(samples)


def note_failure(record: Record, error: BaseException) -> None:
    """Say in a record why it could not be measured, in one line."""
    record.status = "out of memory" if is_out_of_memory(error) else "unsupported"
    record.error = first_line(error)
