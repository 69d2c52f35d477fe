"""The processor cores that this process may use, and how many threads or processes are too many for them."""

import os

PER_CORE = 8  # more than that wait for each other; some thousands crash


def available_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_crowd(name: str, number: int) -> int:
    """The number of threads or processes that a setting asks for. Raises: ValueError beyond `PER_CORE` a core."""
    cores = available_cores()
    if number > PER_CORE * cores:
        raise ValueError(f"{name}: {number} are too many for {cores} cores, at most {PER_CORE * cores} make sense here")
    return number
