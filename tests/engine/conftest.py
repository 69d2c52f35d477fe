"""A run that nothing interrupted, for the tests of runs that something did."""

import pytest

from tests.support.training import small_run


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    small_run(folder)
    return folder
