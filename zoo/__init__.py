"""zoo: structurally re-parameterizable networks that train as many branches and deploy as one convolution.

>>> import zoo
>>> model = zoo.create_model("repvgg_a0")
>>> deployed = zoo.deploy(model.eval())

What the package offers is listed in `__init__.pyi` and imported when it is first used.
"""

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import lazy_loader

__version__ = "0.1.0"
_public, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    if name not in __all__ and find_spec(f"{__name__}.{name}"):  # a room, such as zoo.reparam
        return import_module(f"{__name__}.{name}")
    return _public(name)


class _TimmFinder:
    """Finds timm for whoever imports it after `zoo`, and has our networks registered in it once it is there.

    Not where a room of ours imports it: that is on its way to the registry, or needs none.
    """

    @staticmethod
    def find_spec(name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "timm" or any(module.startswith("zoo.") for module in sys.modules):
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module: ModuleType) -> None:
                execute(module)
                import_module("zoo.registry")

            spec.loader.exec_module = execute_and_register
        return spec


if "timm" in sys.modules:
    import_module("zoo.registry")
else:
    sys.meta_path.insert(0, _TimmFinder)
