"""Every notebook answers its question from top to bottom on the lab checkpoint, each in a kernel of its own."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from analogist.weights import __file__ as weights_file

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NUMBERED = ["01_three_pictures_to_b_prime", "02_where_does_b_prime_look", "03_what_sac_does", "04_what_cam_does"]
NUMBERED += ["05_write_your_own_edit", "06_one_unet_call", "09_find_the_heads", "10_probe_and_steer"]
LAB = Path(weights_file).parent / "lab" / "unet"


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_the_numbered_notebooks_are_there():
    assert set(NUMBERED) <= {path.stem for path in NOTEBOOKS}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_short_and_has_its_outputs(path):
    """A question as title, at most 25 cells of at most 12 lines, the checkpoint as the first line, no magics, under 1 MB."""
    notebook = nbformat.read(path, 4)
    nbformat.validate(notebook)
    cells = code_cells(notebook)
    assert path.stat().st_size < 1_000_000 and len(notebook.cells) <= 25
    assert notebook.cells[0].source.startswith("# ") and "?" in notebook.cells[0].source.splitlines()[0]
    assert re.match(r'CHECKPOINT = (None|"lab-generic")  # ', cells[0].source)
    for cell in cells:
        lines = [line for line in cell.source.splitlines() if line.strip()]
        assert len(lines) <= 12 and not re.search(r"^\s*[%!]", cell.source, re.MULTILINE), cell.source
    assert all(cell.outputs for cell in cells[2:]), "committed without outputs"
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [o for o in outputs if o.output_type == "error"]
    said = "".join(str(o.get("text", "")) + str(o.get("data", {}).get("text/plain", "")) for o in outputs)
    said += "".join(cell.source for cell in notebook.cells)
    assert not [place for place in ("/root", "/home/", "/work", "/tmp/", "site-packages") if place in said]


@pytest.mark.skipif(not LAB.is_dir(), reason="the lab checkpoint is not in weights/lab")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(path, monkeypatch):
    notebook = nbformat.read(path, 4)
    pictures = sum("image/png" in output.get("data", {}) for cell in code_cells(notebook) for output in cell.outputs)
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # where nothing is installed the source tree is what runs
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    client = NotebookClient(notebook, timeout=3600, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}})
    client.execute()
    drawn = sum("image/png" in output.get("data", {}) for cell in code_cells(notebook) for output in cell.outputs)
    assert drawn == pictures and all(cell.outputs for cell in code_cells(notebook)[2:])
