"""Randomness is a function of the key, and leaves no trace."""

import random

import numpy as np
import torch

from zoo.data import derive_seed, seeded


def draw() -> list[float]:
    return [random.random(), float(np.random.rand()), float(torch.rand(())), float(torch.randn(()))]


def test_equal_keys_draw_equal_numbers_and_other_keys_others():
    draws = []
    for key in [(1, 2, 3), (1, 2, 3), (1, 3, 2), (12, 3), (1, 2, 3, 0)]:
        with seeded(*key):
            draws.append(tuple(draw()))
    assert draws[0] == draws[1]
    assert len(set(draws)) == 4
    assert all(len(set(numbers)) == 4 for numbers in draws)


def test_the_generators_outside_go_on_as_if_nothing_had_been():
    def start() -> None:
        random.seed(7)
        np.random.seed(7)
        torch.manual_seed(7)

    start()
    expected = draw() + draw()
    start()
    first = draw()
    with seeded(3, 4):
        draw()
    assert first + draw() == expected


def test_the_generators_outside_survive_an_error_inside():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    try:
        with seeded(1):
            raise KeyError
    except KeyError:
        pass
    assert torch.equal(torch.rand(3), expected)


def test_derived_seeds_never_change_between_versions():
    # A checkpoint of an older version resumes with the same images.
    assert derive_seed(42, 3, 17) == 3777749538993423726
