"""`import zoo` imports nothing heavy, and offers all the same what it always did."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import zoo

ROOT = Path(zoo.__file__).parent


def python(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_package_alone_imports_nothing_heavy():
    heavy = "{'torch', 'timm', 'torchvision'}"
    assert python(f"import sys, zoo; print(sorted({heavy} & sys.modules.keys()))") == "[]\n"


@pytest.mark.parametrize("package", [zoo, zoo.checkpoints, zoo.data, zoo.export, zoo.runtime])
def test_what_the_stub_lists_is_there(package):
    stub = ast.parse(Path(package.__file__).with_name("__init__.pyi").read_text())
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    names = {alias.asname for node in imports for alias in node.names}
    assert names and names == set(package.__all__) <= set(dir(package))
    assert all(getattr(package, name) is not None for name in names)
    assert all(alias.name == alias.asname for node in imports for alias in node.names)


def test_the_public_names_are_these():
    assert zoo.__all__ == [
        *("CheckpointError", "DeployReport", "EquivalenceError", "compile_for", "convert", "create_model", "deploy"),
        *(
            "deploy_with_report",
            "expand",
            "fold",
            "is_deployed",
            "list_models",
            "load_checkpoint",
            "model_entry",
            "models",
        ),
        *("read_checkpoint", "register_model"),
    ]
    with pytest.raises(AttributeError, match="creat_model"):
        zoo.creat_model  # noqa: B018
    assert zoo.reparam.algebra.__name__ == "zoo.reparam.algebra"  # rooms need no import of their own


ORDERS = (
    "import zoo, timm",
    "import timm, zoo",
    "import zoo.reparam.fold, timm; zoo.list_models()",
    "import zoo.models, timm",
)
FORKS = f"""
import os, torchvision  # torch is imported once, and no order begins with it
for imports in {ORDERS!r}:
    if not os.fork():
        exec(imports)
        print(imports, len(timm.list_models("zoo_*")), len(zoo.list_models()), sep=": ", flush=True)
        os._exit(0)
    os.wait()
"""


def test_timm_knows_our_networks_whichever_is_imported_first():
    count = len(zoo.list_models())
    assert python(FORKS).splitlines() == [f"{imports}: {count}: {count}" for imports in ORDERS]
