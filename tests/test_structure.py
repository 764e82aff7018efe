"""The rooms of the package: imports go down, no large circles, few things at the root, no name twice, old paths still there."""

import ast
import re
import subprocess
import sys
import textwrap
from collections import defaultdict
from importlib import import_module
from pathlib import Path

import pytest

from analogist.names import MOVED

ROOT = Path(__file__).parent.parent

# From the lowest to the highest. A file belongs to the longest entry that it lies under; it may import from its own and from lower ones.
ROOMS = """
    models weights names study analogist disk config grid checkpoints
    attention.select attention.capture attention.edit attention attention.measure attention.look
    run pipeline explore prompting examples lab
    experiments experiments.design experiments.decide experiments.score experiments.execute experiments.report experiments.evaluate
    cli __main__
""".split()

# Files of one name in parallel rooms: cli/X.py is the command for what X.py does elsewhere.
SAME_MEANING = {"merge.py": "experiments/execute", "data.py": "experiments/evaluate", "tasks.py": "run"}


def module_of(path: Path) -> str:
    """Dotted name below `analogist`; the package itself is "analogist"."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    parts = parts[1:] if parts[0] == "analogist" else parts
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    return ".".join(parts) or "analogist"


FILES = {module_of(path): path for folder in ("analogist", "models", "weights") for path in sorted((ROOT / folder).rglob("*.py"))}


def running(node: ast.AST):
    """The imports under a node that run when the module is imported."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            yield from (found for other in child.orelse for found in running(ast.Module([other], [])))
        elif isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        else:
            yield from running(child)


def all_imports(path: Path):
    return (node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Import | ast.ImportFrom))


def targets(module: str, nodes) -> set[str]:
    """Product modules that import nodes of a module name."""
    package = module if FILES[module].name == "__init__.py" else module.rpartition(".")[0]
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "analogist"}
            continue
        base = node.module or ""
        if node.level:
            above = ["analogist", *filter(None, package.split("."))][: len(package.split(".")) + 2 - node.level]
            base = ".".join([*above, *filter(None, [base])])
        if base.split(".")[0] != "analogist":
            continue
        for alias in node.names:
            inside = f"{base}.{alias.name}"
            is_module = inside.removeprefix("analogist.") in FILES or inside in MOVED
            found.add(inside if is_module else base)
    return {name.removeprefix("analogist.") for name in found}


GRAPH = {module: targets(module, running(ast.parse(path.read_text(encoding="utf-8")))) for module, path in FILES.items()}
EVERY = {module: targets(module, all_imports(path)) for module, path in FILES.items()}


def room_of(module: str) -> str:
    return max((room for room in ROOMS if module == room or module.startswith(room + ".")), key=len)


def test_the_graph_is_read_from_relative_and_absolute_imports():
    assert {"weights.parts", "weights.model_families"} <= GRAPH["weights.load"]  # `from . import`, `from .x import`
    assert {"run.sampling", "checkpoints.hub"} <= GRAPH["pipeline"]  # `from analogist.x.y import name`, `from analogist.x import module`
    assert "run.known_pictures" in EVERY["pipeline"] - GRAPH["pipeline"]  # imported inside a call
    assert sum(map(len, GRAPH.values())) > 300


def test_every_import_names_a_file_that_exists():
    assert [(module, name) for module, names in EVERY.items() for name in sorted(names) if name not in FILES] == []


def test_no_import_goes_up():
    """At module level; facades such as Result.explore import inside the call."""
    rank = {room: place for place, room in enumerate(ROOMS)}
    up = [f"{module} -> {name}" for module, names in GRAPH.items() for name in names if rank[room_of(name)] > rank[room_of(module)]]
    assert sorted(up) == []


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Strongly connected components of more than one module, by mutual reach."""
    reach = {}
    for start in graph:
        seen, todo = set(), [start]
        while todo:
            for name in graph.get(todo.pop(), set()) - seen:
                seen.add(name)
                todo.append(name)
        reach[start] = seen
    return [{other for other in reach[module] if module in reach[other]} for module in graph if module in reach[module]]


def test_circles_are_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [{"a", "b", "c"}] * 3


def with_packages(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """As `graph`, with what an import runs besides: the `__init__` of every package above the imported module."""
    def above(name: str) -> set[str]:
        parts = name.split(".")
        return {".".join(parts[:n]) for n in range(1, len(parts))} & set(graph) | {"analogist"}

    return {module: set().union(names, *map(above, names)) for module, names in graph.items()}


@pytest.mark.parametrize("graph", [GRAPH, with_packages(GRAPH)], ids=["named", "with packages"])
def test_no_circle_is_larger_than_three_files(graph):
    assert [sorted(one) for one in circles(graph) if len(one) > 3] == []


def test_the_root_has_at_most_twenty_children():
    children = {path.stem for path in (ROOT / "analogist").iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert len(children | {"models", "weights"}) <= 20
    assert {path.name for path in (ROOT / "analogist").glob("*.py")} == {
        "__init__.py", "__main__.py", "pipeline.py", "config.py", "names.py",
    }  # fmt: skip


def test_no_two_files_have_one_name_unless_they_mean_the_same():
    places = defaultdict(set)
    for path in FILES.values():
        if path.name != "__init__.py":
            places[path.name].add(str(path.relative_to(ROOT).parent))
    twice = {name: folders for name, folders in places.items() if len(folders) > 1}
    assert twice == {name: {"analogist/cli", f"analogist/{room}"} for name, room in SAME_MEANING.items()}


def test_every_old_path_is_the_module_at_its_new_place():
    for old, new in MOVED.items():
        module = import_module(new)
        assert import_module(old) is module, old
        assert module.__name__ == new and module.__spec__.name == new, old
        package, _, name = old.rpartition(".")
        assert getattr(import_module(package), name) is module, old
        assert new.removeprefix("analogist.") in FILES and old.removeprefix("analogist.") not in FILES, old


@pytest.mark.parametrize(
    "lines",
    [
        """
        import analogist.study.known as old
        from analogist.run import known_pictures
        from analogist.study import measures
        import analogist.attention.measure.measures as new
        assert old is known_pictures and measures is new
        from analogist.experiments.data import find_tasks
        from analogist.prompting.parse import parse_answer
        from analogist.prompting.given import TextPrompter
        import analogist.lab.train
        """,
        """
        from analogist import examples, hub, pictures
        import analogist.checkpoints.hub as new
        assert hub is new and pictures.read_picture
        import analogist.weights.families as old, analogist.weights.model_families as new
        assert old is new
        examples.load(examples.names()[0]).grid()
        from analogist.grid import PromptGrid
        from analogist import PromptGrid as same
        assert PromptGrid is same
        """,
        """
        import importlib
        import analogist.study.viz
        assert importlib.import_module("analogist.attention.look.viz") is analogist.study.viz
        from analogist.experiments.study import Study as old
        from analogist.experiments import Study, ablate
        assert old is Study and callable(ablate)
        from analogist.models import ddim, unet
        """,
    ],
    ids=["study", "hub and pictures", "experiments"],
)
def test_old_paths_work_first_thing_in_a_new_process(lines):
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(lines)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_a_change_through_an_old_path_acts_on_the_module(monkeypatch):
    from analogist.checkpoints import hub

    monkeypatch.setattr("analogist.hub.known", lambda: "changed")
    assert hub.known() == "changed"


def test_an_unknown_old_path_is_no_module():
    with pytest.raises(ModuleNotFoundError, match="analogist.study.nothing"):
        import_module("analogist.study.nothing")


def test_the_product_does_not_import_through_old_paths():
    old = {name.removeprefix("analogist.") for name in MOVED} | {"study"}
    inside = {module: sorted(names & old) for module, names in EVERY.items() if module != "study"}
    assert {module: names for module, names in inside.items() if names} == {}


def test_the_package_of_old_paths_shows_editors_every_one_of_them():
    (block,) = [node for node in ast.parse((ROOT / "analogist" / "study" / "__init__.py").read_text()).body if isinstance(node, ast.If)]
    shown = {f"analogist.study.{alias.asname}": f"{node.module}.{alias.name}" for node in block.body for alias in node.names}
    assert shown == {old: new for old, new in MOVED.items() if old.startswith("analogist.study.")}


def test_the_packages_readme_lists_what_moved():
    section = (ROOT / "analogist" / "README.md").read_text(encoding="utf-8").split("## What moved")[1].split("\n## ")[0]
    listed = {}
    for room, cells in re.findall(r"^\| `(analogist\.[\w.]+)` \| (.+) \|$", section, re.M):
        for old, new in re.findall(r"`([\w.]+)`(?: \(`(\w+)`\))?", cells):
            listed[f"analogist.{old}"] = f"{room}.{new or old.rpartition('.')[2]}"
    assert listed == MOVED
