"""A run that nothing interrupted, for the tests of runs that something did; none of them ends with pictures."""

import pytest

from tests.support.training import small_run


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    small_run(folder)
    return folder


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """They take a third of a small run, and are looked at in `test_pictures.py` and the tests of `train.py`."""
    monkeypatch.setattr("zoo.engine.train.show_results", lambda *_: None)
