"""Randomness as a function of where we are, not of what ran before."""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive_seed(*key: int) -> int:
    """A 63-bit seed from integers like (seed, epoch, image index); equal keys give equal seeds anywhere."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Inside the block, the generators of `random`, numpy and torch (CPU) start from `key`.

    On leaving they continue as if the block had not been: what dropout draws does not depend on how many
    images were augmented in between, or in which process.
    """
    seed = derive_seed(*key)
    saved = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    # torch.manual_seed would also queue a seeding of every GPU, which nothing here draws from.
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(saved[0])
        np.random.set_state(saved[1])
        torch.set_rng_state(saved[2])
