"""The reading path of README stays short, and needs nothing that is not on it."""

import ast
import io
import tokenize
from pathlib import Path

import zoo

ROOT = Path(zoo.__file__).parent
PATH = [f"reparam/{name}.py" for name in ("spec", "algebra", "layers", "fold", "block", "branches")]
NETWORK = "models/repvgg.py"
LAYOUT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


def code_lines(path: Path) -> int:
    """Lines that hold code: neither blank, nor a comment, nor a docstring."""
    source = path.read_text()
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in LAYOUT:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)


def imports_of_ours(path: Path) -> set[str]:
    found = (node.module for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom))
    return {module for module in found if module and module.startswith("zoo")}


def test_the_reading_path_is_short():
    assert sum(code_lines(ROOT / name) for name in [*PATH, NETWORK]) <= 600


def test_the_reading_path_imports_only_what_is_on_it():
    before: set[str] = set()
    for name in PATH:
        assert imports_of_ours(ROOT / name) <= before, name
        before.add("zoo." + name.removesuffix(".py").replace("/", "."))
    # The network's base class and its name are timm's contract, not re-parameterization.
    assert imports_of_ours(ROOT / NETWORK) <= before | {"zoo.models.staged", "zoo.registry"}
