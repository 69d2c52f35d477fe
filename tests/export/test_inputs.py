"""What compile_for and its engines are given: examples and images of every kind."""

import re

import pytest
from torch import nn

from tests.support.export_networks import images
from zoo.export import compile_for


def test_images_of_another_size_or_type_are_refused(model: nn.Module) -> None:
    engine = compile_for(model, "eager", example=images(2))
    for wrong in (images(2, size=48), images(2).double(), images(2)[:0], images(2)[0]):
        with pytest.raises(ValueError, match=r"built for float32 images \(N, 3, 32, 32\), not"):
            engine(wrong)


@pytest.mark.parametrize(
    ("example", "options", "message"),
    [
        (images(1)[0], {}, "float32 images (N, C, H, W), not float32"),
        (images(1)[:0], {}, "float32 images (N, C, H, W), not float32"),
        (images(1).double(), {}, "not float64"),
        (images(1), {"threads": 0}, "threads must be at least 1, got 0"),
    ],
)
def test_an_example_that_no_engine_takes_is_refused(model: nn.Module, example, options, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        compile_for(model, "eager", example=example, **options)


@pytest.mark.parametrize("name", ["eager", "onnxruntime"])
def test_images_that_want_gradients_are_answered_without(model: nn.Module, name: str) -> None:
    pytest.importorskip(name) if name != "eager" else None
    fast = compile_for(model, name, example=images(1))
    assert not fast(images(2).requires_grad_()).requires_grad
