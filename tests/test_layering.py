"""Imports run downwards only: each room of the house knows the ones below it."""

import ast
from pathlib import Path

import pytest

import zoo

ROOT = Path(zoo.__file__).parent
# From the bottom up. A package knows those before it, and its own files.
ORDER = [
    "zoo.mishaps",
    "zoo.atomic",
    "zoo.cores",
    "zoo.nearest",
    "zoo.settings",
    "zoo.untrusted",
    "zoo.published",  # data alone
    "zoo.catalog",
    "zoo.results",
    "zoo.compare",
    "zoo.network",
    "zoo.cost",
    "zoo.resources",
    "zoo.reparam.spec",
    "zoo.reparam.algebra",
    "zoo.reparam.layers",
    "zoo.reparam.fold",
    "zoo.reparam.block",
    "zoo.reparam.branches",
    "zoo.reparam.merged",
    "zoo.reparam.foreign",
    "zoo.reparam.orepa",
    "zoo.reparam",
    "zoo.surgery.verify",
    "zoo.surgery",
    "zoo.checkpoints",
    "zoo.features",
    "zoo.registry",
    "zoo.models",
    "zoo",
    "zoo.runtime",
    "zoo.data",
    "zoo.export",
    "zoo.bench",
    "zoo.paper",
    "zoo.engine",
    "zoo.cli",
    "zoo.__main__",
]


def room(module: str) -> str:
    """The longest name in ORDER that a module is in."""
    return max((name for name in ORDER if f"{module}.".startswith(f"{name}.")), key=len)


def imported(path: Path) -> set[str]:
    """Modules of ours that a file imports, at the top or inside a function."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            below = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {
                n if (ROOT.parent / n.replace(".", "/")).with_suffix(".py").exists() else node.module for n in below
            }
    return {name for name in names if name == "zoo" or name.startswith("zoo.")}


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_downwards(path):
    module = ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")
    if module == "zoo":
        return
    own = ORDER.index(room(module))
    upward = {name for name in imported(path) if ORDER.index(room(name)) > own}
    assert not upward


@pytest.mark.parametrize("package", ["data", "engine"])
def test_data_and_engine_know_no_family(package):
    for path in (ROOT / package).rglob("*.py"):
        assert not {name for name in imported(path) if name.startswith("zoo.models.")}, path
