"""The package: no absolute imports of models or weights, import from anywhere, installed as one name."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import analogist

ROOT = Path(__file__).parent.parent


def imports(path: Path):
    """(level, module) of every import in a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.level, node.module or ""


PRODUCT = [path for folder in ("analogist", "models", "weights") for path in sorted((ROOT / folder).rglob("*.py"))]


@pytest.mark.parametrize("path", PRODUCT, ids=[str(path.relative_to(ROOT)) for path in PRODUCT])
def test_imports_point_one_way(path):
    folder = path.relative_to(ROOT).parts[0]
    for level, module in imports(path):
        top = module.split(".")[0]
        if level == 0:
            assert top not in ("models", "weights", "tests", "diffusers", "pickle", "torchvision", "cv2"), module
        if folder in ("models", "weights") and level == 0:
            assert top in ("torch", "einops", "safetensors") or top in sys.stdlib_module_names, module
        if folder in ("models", "weights"):
            assert level <= len(path.relative_to(ROOT).parts) - 1, module


def test_the_public_names_are_there():
    for name in analogist.__all__:
        assert getattr(analogist, name) is not None
    assert set(analogist.__all__) <= set(dir(analogist))
    with pytest.raises(AttributeError, match="no attribute 'Analogits'"):
        _ = analogist.Analogits


def test_importing_has_no_side_effects_and_needs_no_torch(tmp_path):
    code = "import sys, analogist; assert 'torch' not in sys.modules; print(analogist.__version__)"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=env)
    assert done.stdout.strip() == analogist.__version__, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("editable", [False, True], ids=["regular", "editable"])
def test_an_installation_brings_models_weights_and_data(tmp_path, editable):
    """In a fresh environment that sees this one's libraries, imported from elsewhere and with another `models` in the way."""
    subprocess.run([sys.executable, "-m", "venv", "--system-site-packages", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    site = next(path for path in sys.path if path.endswith("site-packages"))
    folder = tmp_path / "venv" / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    (folder / "outer.pth").write_text(site + "\n")
    source = tmp_path / "source"
    names = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], check=True, capture_output=True).stdout.decode().split("\0")
    for name in filter(None, names):
        if name.split("/")[0] in ("tests", "notebooks", ".typing") or not (ROOT / name).exists():  # .typing: the type checker's links
            continue
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    how = ["-e"] if editable else []
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", *how, str(source)], check=True)
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "models").mkdir(parents=True)
    (elsewhere / "models" / "__init__.py").write_text("raise RuntimeError('the wrong models')\n")
    code = (
        "import analogist, analogist.models.unet, analogist.weights as weights\n"
        "from importlib.resources import files; assert files('analogist').joinpath('py.typed').is_file()\n"
        "from analogist.pipeline import lab_checkpoint\n"
        "from analogist.checkpoints.text_encoder import MERGES_FILE\n"
        "from analogist.examples import by_people; from analogist.lab.vocabulary import WORDS; assert by_people.names() and WORDS\n"
        "assert lab_checkpoint().joinpath('model_index.json').is_file() and MERGES_FILE.is_file()\n"
        "from analogist import examples; print(len(examples.names()), analogist.__file__)\n"
    )
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, cwd=elsewhere, env=env)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[0]) >= 1
    assert str(source if editable else tmp_path / "venv") in done.stdout
    script = subprocess.run([tmp_path / "venv" / "bin" / "analogist", "--version"], capture_output=True, text=True, cwd=elsewhere, env=env)
    assert script.stdout.strip() == f"analogist {analogist.__version__}", script.stderr
