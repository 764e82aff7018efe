"""Annotations are true: basedpyright checks the product (models/ strictly) and sees the public names although they load lazily."""

import ast
import json
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["basedpyright"]
PRODUCT = [path for folder in ("analogist", "models", "weights") for path in sorted((ROOT / folder).rglob("*.py"))]
LAZY = ["analogist", "analogist.experiments", "analogist.explore", "analogist.grid", "analogist.prompting", "analogist.weights"]


@pytest.fixture(scope="module")
def report() -> dict:
    """What the checker says of everything that pyproject.toml names, as JSON."""
    command = [sys.executable, "-m", "basedpyright", "--pythonpath", sys.executable, "--outputjson"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return json.loads(done.stdout)


def test_the_checker_finds_nothing(report):
    found = []
    for one in report["generalDiagnostics"]:
        place = f"{Path(one['file']).relative_to(ROOT)}:{one['range']['start']['line'] + 1}"
        found.append(f"{place}: {one['severity']}: {one['message']} ({one.get('rule', 'syntax')})")
    assert not found, f"{len(found)} found\n" + "\n".join(found)


def test_every_file_of_the_product_is_checked(report):
    assert report["summary"]["filesAnalyzed"] == len(PRODUCT) + 1  # and tests/typed_use.py
    assert SETTINGS["include"] == ["analogist", "models", "weights", "tests/typed_use.py"]
    assert all((ROOT / path).is_file() and not path.startswith("models/") for path in SETTINGS.get("ignore", []))
    assert SETTINGS["strict"] == ["models"] and SETTINGS["typeCheckingMode"] == "basic"


def shown_to_editors(package: str) -> set[str]:
    """Names that a package imports under TYPE_CHECKING."""
    tree = ast.parse(Path(import_module(package).__file__).read_text(encoding="utf-8"))
    blocks = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    imports = [node for block in blocks for node in ast.walk(block) if isinstance(node, ast.ImportFrom)]
    return {name.asname or name.name for node in imports for name in node.names}


@pytest.mark.parametrize("package", LAZY)
def test_editors_are_shown_exactly_the_public_names(package):
    module = import_module(package)
    assert shown_to_editors(package) == set(module.__all__) - {"__version__"}
    assert set(module.__all__) <= set(dir(module))
    for name in module.__all__:
        assert getattr(module, name) is not None, name


def test_the_package_says_that_it_is_typed():
    assert (ROOT / "analogist" / "py.typed").is_file()
    assert '"py.typed"' in (ROOT / "setup.py").read_text(encoding="utf-8")


def test_the_checkers_links_lead_to_the_folders():
    """Where links are not links (an archive of the sources without them), the checker would find other files, or none."""
    for folder in ("models", "weights"):
        assert (ROOT / SETTINGS["stubPath"] / "analogist" / folder).resolve() == ROOT / folder
