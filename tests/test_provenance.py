"""The environments that results/*.lock pin are those that the committed results name."""

import json
import re
from pathlib import Path

import pytest

RESULTS = Path(__file__).resolve().parents[1] / "results"
LOCKS = {file.name: file.read_text() for file in sorted(RESULTS.glob("*.lock"))}
PINNED = {name: dict(re.findall(r"^([a-z0-9-]+)==(\S+)", lock, re.MULTILINE)) for name, lock in LOCKS.items()}


def versions(document: object) -> list[dict[str, str]]:
    """Every `versions` table in a document, at any depth."""
    if isinstance(document, dict):
        here = [document["versions"]] if isinstance(document.get("versions"), dict) else []
        return here + [found for value in document.values() for found in versions(value)]
    return [found for value in document for found in versions(value)] if isinstance(document, list) else []


@pytest.mark.parametrize("file", sorted((RESULTS / "benchmark").glob("*.json")), ids=lambda file: file.stem)
def test_results_were_measured_in_a_locked_environment(file):
    found = versions(json.loads(file.read_text()))
    assert found
    for table in found:
        packages = {name.lower(): version for name, version in table.items() if name != "python"}
        assert any(packages.items() <= pinned.items() for pinned in PINNED.values())


@pytest.mark.parametrize("lock", LOCKS)
def test_every_pinned_package_has_a_hash(lock):
    blocks = re.split(r"\n(?=[a-z0-9-]+==)", LOCKS[lock])[1:]
    assert len(blocks) == len(PINNED[lock])
    assert all("--hash=sha256:" in block for block in blocks)
