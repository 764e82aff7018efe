"""The data of the published evaluation, in its published layout, and plain CSV lists of analogies; both as inputs.

Published layout (hub data set picana/Analogist): three folders of tasks, each with `<task>` (whole grids with the true B'),
`<task>_masked` (B' black, the input), and `<task>_gpt4_out.txt`: one line per file in sorted order, name and prompts separated by tabs.
"""

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from analogist.config import TASKS
from analogist.disk.foreign import composed, existing, read_text
from analogist.disk.writing import shown
from analogist.experiments.design.inputs import Input, check_names, input_name
from analogist.grid.pictures import PictureError, read_picture
from analogist.grid.prompt_grid import PromptGrid

CATEGORIES = {
    "low_level_tasks_processed": ("colorization", "deblur", "denoise", "enhancement"),
    "manipulation_tasks_processed": ("image_editing", "image_translation", "style_transfer"),
    "vision_tasks_processed": ("ubcfashion", "scannet", "inpainting"),
}
CATEGORY_NAMES = {
    "low_level_tasks_processed": "low-level",
    "manipulation_tasks_processed": "manipulation",
    "vision_tasks_processed": "vision",
}
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
SIDE = 512


class DataError(ValueError):
    """Data is not in the expected layout. The message names the file or line and what is expected."""


@dataclass(frozen=True)
class Task:
    """The files of one task. category: low-level, manipulation or vision. grids: masked inputs. truths: whole grids."""

    name: str
    category: str
    grids: tuple[Path, ...]
    truths: tuple[Path, ...]
    prompts: tuple[str, ...]


def category_of(task: str) -> str:
    """The category of a published task."""
    return next(CATEGORY_NAMES[folder] for folder, tasks in CATEGORIES.items() if task in tasks)


def find_tasks(root: str | Path, only: Sequence[str] | None = None) -> list[Task]:
    """The tasks of a folder in the published layout, in the published order. only: names of tasks.

    Raises DataError for a broken layout: no such folder, pictures and prompt lines that differ in number or name, a line
    without a tab.
    """
    root = Path(root)
    unknown = sorted(set(only or ()) - set(TASKS))
    if unknown:
        raise DataError(f"tasks {unknown}: allowed are {', '.join(TASKS)}")
    if not root.is_dir():
        raise DataError(f"{shown(root)}: no such folder; `analogist data fetch --out {shown(root)}` downloads it")
    found = []
    for folder, tasks in CATEGORIES.items():
        for name in tasks:
            wanted = only is not None and name in only
            if only is not None and not wanted:
                continue
            if (root / folder / f"{name}_masked").is_dir():
                found.append(_task(root / folder, name))
            elif wanted or (root / folder).is_dir():
                raise DataError(f"{shown(root / folder)}: it has no folder {name}_masked")
    if not found:
        expected = ", ".join(f"{folder}/{tasks[0]}_masked" for folder, tasks in CATEGORIES.items())
        raise DataError(f"{shown(root)}: not the published layout (expected {expected}, ...)")
    return found


def _pictures(folder: Path) -> list[Path]:
    found = (path for path in folder.iterdir() if path.suffix.lower() in PICTURES and not path.name.startswith("."))
    return sorted(found, key=lambda path: composed(path.name))


def _task(folder: Path, name: str) -> Task:
    grids = _pictures(folder / f"{name}_masked")
    if not grids:
        raise DataError(f"{shown(folder / f'{name}_masked')}: it holds no picture")
    names, prompts = read_prompts(folder / f"{name}_gpt4_out.txt")
    if len(prompts) != len(grids):
        raise DataError(
            f"{shown(folder / f'{name}_gpt4_out.txt')}: {len(prompts)} lines, but {name}_masked holds {len(grids)} pictures; "
            "expected one line per picture"
        )
    for line, (said, path) in enumerate(zip(names, grids, strict=True), 1):
        if composed(Path(said).stem) != composed(path.stem):
            raise DataError(
                f"{shown(folder / f'{name}_gpt4_out.txt')}, line {line}: {said!r}, but the picture at this position is {path.name}"
            )
    truths: list[Path] = []
    if (folder / name).is_dir():
        whole = {composed(path.stem): path for path in _pictures(folder / name)}
        missing = [shown(path.stem) for path in grids if composed(path.stem) not in whole]
        if missing:
            raise DataError(
                f"{shown(folder / name)}: {len(missing)} pictures of {name}_masked are missing here, first {missing[0]}"
            )
        truths = [whole[composed(path.stem)] for path in grids]
    return Task(name, CATEGORY_NAMES[folder.name], tuple(grids), tuple(truths), tuple(prompts))


def text_lines(path: Path) -> list[str]:
    """The lines of a text file. Raises DataError if it cannot be read or is not UTF-8."""
    try:
        return read_text(path).splitlines()
    except OSError as error:
        raise DataError(f"{shown(path)}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{shown(path)}: not UTF-8 text") from error


def read_prompts(path: Path) -> tuple[list[str], list[str]]:
    """File names and first prompts of a `*_gpt4_out.txt`. Raises DataError naming the line that is not name, tab, prompt."""
    lines = text_lines(path)
    while lines and not lines[-1].strip():
        lines.pop()
    names, prompts = [], []
    for number, line in enumerate(lines, 1):
        parts = [part.strip() for part in line.split("\t")]
        if len(parts) < 2 or not parts[0] or not parts[1]:
            raise DataError(f"{shown(path)}, line {number}: no tab between a file name and a prompt in {line[:80]!r}")
        names.append(parts[0])
        prompts.append(parts[1])
    return names, prompts


def check_grid(path: Path) -> None:
    """Raises DataError if a picture is not a 2 x 2 grid: square, with an even side."""
    try:
        picture = read_picture(path, "grid")
    except PictureError as error:
        raise DataError(str(error)) from error
    if picture.width != picture.height or picture.width % 2 or picture.width < 32:
        raise DataError(
            f"{shown(path)}: {picture.width} x {picture.height} px is not a 2 x 2 grid; "
            "expected a square picture, published as 512 x 512"
        )


def task_inputs(task: Task, *, limit: int | None = None) -> list[Input]:
    """A task's files as inputs, with its published strength and guidance. limit: how many files to take, from the first."""
    strength, guidance, _ = TASKS[task.name]
    out = []
    for k, path in enumerate(task.grids[:limit]):
        check_grid(path)
        truth = None
        if task.truths:
            check_grid(task.truths[k])
            whole = read_picture(task.truths[k], "grid with the truth")
            truth = PromptGrid.from_image(whole, whole.height).crop(whole, without_border=True)
        grid = PromptGrid.from_image(path)
        out.append(Input(f"{task.name}/{input_name(path.stem)}", grid, task.prompts[k], None, truth, task.name, strength, guidance))
    check_names(out)
    return out


def published_inputs(root: str | Path, *, tasks: Sequence[str] | None = None, limit: int | None = None) -> list[Input]:
    """The inputs of all tasks of a folder in the published layout. limit: files per task. Raises as `find_tasks`."""
    return [one for task in find_tasks(root, tasks) for one in task_inputs(task, limit=limit)]


def reduced(picture: Image.Image, longest: int) -> Image.Image:
    """The picture with its longer side at most `longest` px, so that thousands of photos fit into memory."""
    scale = longest / max(picture.size)
    return picture if scale >= 1 else picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))))


COLUMNS = ("a", "a_prime", "b", "b_prime", "prompt", "name", "group")


def read_csv(path: str | Path, *, fit: str | None = None, aligned: str = "a-a_prime", border: bool = True) -> list[Input]:
    """A list of analogies: columns a, a_prime, b, optional b_prime (the truth), prompt, name, group, in any case. Paths are
    beside the file.

    fit, aligned, border: how the grids are drawn, as PromptGrid takes them. The fields may be separated by commas, semicolons or tabs,
    as spreadsheets write them; a first line "sep=;" and empty rows are skipped. Raises DataError naming the line and what is wrong
    with it.
    """
    path = Path(path)
    try:
        head, rows = _fields(read_text(path))
    except OSError as error:
        raise DataError(f"{shown(path)}: cannot be read ({error.strerror or error})") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{shown(path)}: not a CSV file in UTF-8 ({error}); save it as CSV UTF-8") from error
    missing, unknown = [name for name in COLUMNS[:3] if name not in head], [name for name in head if name not in COLUMNS]
    if missing or unknown or len(set(head)) < len(head):
        twice = [name for name in dict.fromkeys(head) if head.count(name) > 1]
        wrong = f"missing {', '.join(missing)}" if missing else f"unknown {', '.join(map(repr, unknown))}"
        wrong = wrong if missing or unknown else f"present twice: {', '.join(twice)}"
        raise DataError(
            f"{shown(path)}: columns are {wrong}; expected {', '.join(COLUMNS[:3])} and optionally {', '.join(COLUMNS[3:])}"
        )
    if not rows:
        raise DataError(f"{shown(path)}: no lines below the column names")
    out = []
    for position, (number, fields) in enumerate(rows, 1):
        row = dict(zip(head, fields, strict=False))
        if any(fields[len(head) :]) or any(not row.get(name) for name in COLUMNS[:3]):
            raise DataError(f"{shown(path)}, line {number}: a, a_prime and b are required, and at most as many fields as columns")
        try:
            a, a_prime, b = (existing(path.parent / row[name]) for name in COLUMNS[:3])
            grid = PromptGrid(a, a_prime, b, fit=fit, aligned=aligned, border=border)
            truth = read_picture(existing(path.parent / row["b_prime"]), "B'") if row.get("b_prime") else None
            name = row.get("name") or f"{position:04d}-{input_name(Path(row['b']).stem)}"
            out.append(Input(name, grid, row.get("prompt") or "", None, truth, row.get("group") or ""))
        except ValueError as error:
            raise DataError(f"{shown(path)}, line {number}: {error}") from error
    check_names(out, shown(path))
    return out


def _fields(text: str) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The column names, and (line number, fields) of every row that is not empty, without surrounding spaces."""
    lines = text.splitlines(keepends=True)
    said = re.fullmatch(r'"?sep=(.)"?\s*', lines[0], re.IGNORECASE) if lines else None
    first = 1 if said else 0
    names = next((line for line in lines[first:] if line.strip(",;|\t\r\n\" ")), "")
    # The separator with which the first line that is not empty holds most of the known columns.
    known = {mark: sum(_bare(one) in COLUMNS for one in names.split(mark)) for mark in ",;\t|"}
    separator = said[1] if said else max(known, key=known.__getitem__)
    reader = csv.reader(io.StringIO("".join(lines[first:]), newline=""), delimiter=separator, skipinitialspace=separator != " ")
    rows = [(first + reader.line_num, [field.strip() for field in fields]) for fields in reader]
    rows = [(number, fields) for number, fields in rows if any(fields)]
    head = [name.lower() for name in rows.pop(0)[1]] if rows else []
    while head and not head[-1]:
        head.pop()
    return head, rows


def _bare(name: str) -> str:
    return name.strip().strip('"').lower()
