"""Packaging: the top-level folders models/ and weights/ are installed as analogist.models and analogist.weights."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "([^"]+)"', (ROOT / "analogist" / "__init__.py").read_text()).group(1)

packages = find_packages(include=["analogist", "analogist.*"])
for folder in ("models", "weights"):
    packages += [f"analogist.{folder}"] + [f"analogist.{folder}.{name}" for name in find_packages(folder)]

extras = {
    "plots": ["matplotlib>=3.8"],
    "eval": ["torchmetrics>=1.4", "pyarrow>=15"],
    "perceptual": ["torchvision>=0.19", "torch-fidelity>=0.3"],  # LPIPS and Inception FID; not to be had on every mirror
    "cluster": ["ray>=2.9"],
    "prompting": ["openai>=1.40"],
    "local-vlm": ["torchvision>=0.19", "num2words>=0.5"],  # what some families' processors need besides transformers
    "xarray": ["xarray>=2024.1"],
    "notebooks": ["nbformat>=5.10", "nbclient>=0.10", "ipykernel>=6.29"],
}
extras["test"] = [
    "pytest>=8", "pytest-xdist>=3.5", "hypothesis>=6.100", "tifffile>=2024.1", "diffusers>=0.38", "peft>=0.21", "accelerate>=1.0",
    "psutil>=5.9", "selenium>=4.20", "basedpyright>=1.30", "transformers[serving]>=5.0",
    *(requirement for name in ("plots", "eval", "cluster", "prompting", "xarray", "notebooks") for requirement in extras[name]),
]  # fmt: skip

setup(
    name="analogist",
    version=VERSION,
    description="Visual in-context learning by analogy with inpainting diffusion, every attention map open to reading and editing",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.11",
    packages=packages,
    package_dir={"analogist": "analogist", "analogist.models": "models", "analogist.weights": "weights"},
    package_data={
        "analogist": ["py.typed"],
        "analogist.weights": ["README.md", "*.json", "clip_merges/*", "lab/*", "lab/*/*", "lab-generic/*", "lab-generic/*/*"],
        "analogist.examples": ["*/*.png", "*/*.json", "*/LICENSE", "*.json", "*.md"],
        "analogist.lab": ["words.txt"],
        "analogist.explore": ["assets/*"],
        "analogist.experiments.report": ["assets/*"],
    },
    install_requires=[
        "torch>=2.4",
        "einops>=0.7",
        "safetensors>=0.4.3",
        "transformers>=5.0",
        "pillow>=10.1",
        "numpy>=1.26",
        "tqdm>=4.66",
    ],
    extras_require=extras,
    entry_points={"console_scripts": ["analogist = analogist.cli.main:main"]},
)
