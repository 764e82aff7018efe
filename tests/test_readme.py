"""What the READMEs say is true: commands parse, code runs, tables list what there is, links lead somewhere."""

import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from analogist import SAC, examples
from analogist.cli.main import build_parser
from analogist.models.placement import POINTS
from analogist.models.unet import UNet, UNetConfig

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [
    path for path in ROOT.rglob("README.md") if not {".venv", "out", "build", "node_modules"} & set(path.relative_to(ROOT).parts)
]  # fmt: skip


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language; "": those without one."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.S | re.M)
    return [block for name, block in found if name == language]


def test_the_readme_is_short_enough_to_be_read() -> None:
    assert len(README.split()) <= 1800


def commands() -> list[str]:
    """Every `analogist ...` line of the README, without its comment."""
    lines = [line.split("  #")[0].strip() for block in blocks(README, "sh") for line in block.splitlines()]
    return [line for line in lines if line.startswith("analogist ")]


def test_the_readme_has_commands() -> None:
    assert len(commands()) >= 12


@pytest.mark.parametrize("line", commands())
def test_every_command_of_the_readme_parses(line: str) -> None:
    build_parser().parse_args(shlex.split(line)[1:])


def test_the_ten_lines_of_notebook_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example = examples.load("recolour")
    for name, picture in (("a", example.a), ("a_prime", example.a_prime), ("b", example.b)):
        picture.save(tmp_path / f"{name}.png")
    monkeypatch.chdir(tmp_path)
    (code,) = blocks(README, "python")
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    assert isinstance(names["result"].b_prime, Image.Image)
    assert names["look"].axes == ("step", "branch", "image", "head", "query", "key")
    assert names["step"].i > 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_pictures_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+?)\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_the_tree_of_the_readme_lists_what_there_is() -> None:
    tree = README.split("## What is where")[1].split("```")[1]
    folder = ROOT
    listed: set[str] = set()
    for line in tree.strip().splitlines():
        indented = line.startswith("  ")
        head = line.split("   ")[0] if not indented else line[2:22]
        for name in re.findall(r"[\w./-]+(?:/|\.py)", head):
            if not indented:
                folder = ROOT / name
                assert folder.is_dir(), name
            else:
                assert (folder / name).exists(), f"{folder.name}/{name}"
                listed.add(f"{folder.name}/{name.rstrip('/')}")
    rooms = {
        f"analogist/{path.name}" for path in (ROOT / "analogist").iterdir() if path.is_dir() and any(path.glob("*.py"))
    }  # fmt: skip
    assert rooms <= listed


@pytest.mark.parametrize("folder", ["models", "weights"])
def test_tables_of_files_list_every_file(folder: str) -> None:
    page = (ROOT / folder / "README.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    listed = {name for row in rows for name in re.findall(r"`([\w./]+)`", row) if name.endswith(".py")}
    assert listed == {path.name for path in (ROOT / folder).glob("*.py") if path.name not in ("__init__.py", "errors.py")}


def test_the_table_of_sites_is_the_networks() -> None:
    page = (ROOT / "models" / "README.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if re.match(r"\| \d+ \| `", line)]
    unet = UNet(UNetConfig(channels=(8, 8, 8, 8), heads=(1, 1, 1, 1), text_width=8, norm_groups=4))
    sites = [site for site in unet.sites if site.kind == "self"]
    assert len(rows) == len(sites) == 16
    published = SAC().placement
    for row, site in zip(rows, sites, strict=True):
        assert (int(row[0]), row[1].strip("`") + ".self") == (site.layer, site.name)
        assert row[2] == f"1/{site.stride}" and row[3] == f"{64 // site.stride}²" and row[4] == f"{128 // site.stride}²"
        assert (row[-1] == "SAC CAM") == published.matches(site)


def test_the_table_of_points_is_the_codes() -> None:
    page = (ROOT / "models" / "README.md").read_text(encoding="utf-8")
    section = page.split("## Points")[1]
    listed = re.findall(r"^\| `(\w+)` \|", section, re.M)
    assert set(listed) == set(POINTS) and len(listed) == len(set(listed))
