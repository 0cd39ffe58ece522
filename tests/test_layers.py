"""Dependencies run one way: schemas <- captioner <- pipelines."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FORBIDDEN = {
    "schemas": {"captioner", "pipelines", "tests", "torch", "apache_beam", "numpy", "fsspec"},
    "captioner": {"pipelines", "tests", "apache_beam", "label_studio_sdk"},
    "pipelines": {"tests"},
}


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", FORBIDDEN)
def test_no_import_points_back(package: str):
    files = list((ROOT / package).rglob("*.py"))
    assert files
    wrong = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in files
        for name in imported(path) & FORBIDDEN[package]
    }
    assert not wrong
