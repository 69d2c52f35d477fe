"""The small network that most tests of engines build from."""

import pytest
from torch import nn

from tests.support.export_networks import images, small_network
from zoo.export.compile import deployed_network
from zoo.export.engines import Source


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return small_network()


@pytest.fixture(scope="module")
def source(model: nn.Module) -> Source:
    """The small network deployed and captured once for the tests that build engines from it."""
    return Source(deployed_network(model, images(2)), images(2), (images(8, seed=5),), 1)
