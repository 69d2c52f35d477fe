"""Randomness as a function of where we are, not of what ran before."""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.random.mtrand import get_bit_generator, set_bit_generator  # not in numpy.random's stubs


def derive_seed(*key: int) -> int:
    """A 63-bit seed from integers like (seed, epoch, image index); equal keys give equal seeds anywhere."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Inside the block, the generators of `random`, numpy and torch (CPU) start from `key`.

    On leaving they continue as if the block had not been: what dropout draws does not depend on how many
    images were augmented in between, or in which process. (Only a spare normal of `numpy.random.randn` is
    lost. Swapping numpy's generator costs a tenth of saving and restoring the state of its own.)
    """
    seed = derive_seed(*key)
    saved = random.getstate(), get_bit_generator(), torch.get_rng_state()
    random.seed(seed)
    set_bit_generator(np.random.PCG64(seed))
    # torch.manual_seed would also queue a seeding of every GPU, which nothing here draws from.
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(saved[0])
        set_bit_generator(saved[1])
        torch.set_rng_state(saved[2])
