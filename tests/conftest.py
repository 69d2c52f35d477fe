"""Settings for the whole suite."""

import os
from pathlib import Path

import pytest

# The suite runs in parallel (pytest -n); a test whose convolutions take all cores only slows the others down.
# Before torch is imported, and through the environment, so that it holds for the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from hypothesis import settings

torch.set_num_threads(1)

# The same examples in every run, and no verdict on how long one takes.
settings.register_profile("zoo", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("zoo")

SLOW = {line for line in Path(__file__).with_name("slow.txt").read_text().splitlines() if not line.startswith("#")}


@pytest.hookimpl(tryfirst=True)  # before pytest leaves out what is marked
def pytest_collection_modifyitems(items):
    for item in items:
        if item.nodeid in SLOW:
            item.add_marker(pytest.mark.slow)
