"""OREPA's RepVGG (Online Convolutional Re-parameterization, arXiv 2204.00826, table 4).

    block = relu(bn(K * x) + bn(1x1) + bn(id)),   K folded in every step: `zoo.reparam.orepa`

Its ResNets are among `zoo.models.converted`.
"""

from functools import partial

from zoo.models.repvgg import VARIANTS, RepVGG
from zoo.models.staged import register

for _name in ("repvgg_a0", "repvgg_a1", "repvgg_a2"):
    register(f"orepa_{_name}", partial(RepVGG, VARIANTS[_name], block="orepa_repvgg"), "OREPA")
