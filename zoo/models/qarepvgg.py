"""QARepVGG: Make RepVGG Greater Again, a Quantization-aware Approach (arXiv 2212.01593).

    block = relu(bn(bn(3x3) + 1x1 + id))     id not in a stage's first block

RepVGG's networks with another block: the 1x1 and the identity branch have no BatchNorm, the sum has one. Deployed, both
are the same stack of 3x3 and ReLU; this one is meant to keep the ranges of its weights and maps narrow enough for int8.
"""

from functools import partial

from zoo.models.repvgg import CFGS, VARIANTS, RepVGG
from zoo.models.staged import register

# The sizes of the authors' code, B3 by the same rule, and ours for small images.
for _size in ("a0", "a1", "a2", "b0", "b1", "b1g2", "b1g4", "b2", "b2g4", "b3", "tiny"):
    _builder = partial(RepVGG, VARIANTS[f"repvgg_{_size}"], block="qarepvgg")
    register(f"qarepvgg_{_size}", _builder, "QARepVGG", **CFGS.get(f"repvgg_{_size}", {}))
