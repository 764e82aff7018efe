"""Relation252K (Gong et al. 2025, RelationAdapter): pairs of pictures side by side, by task; an analogy is two pairs of one task.

Published layout (hub data set handsomeWilliam/Relation252K): `<task>/Group1/labels.json`, a list of objects with img_name,
left_image_description, right_image_description and edit_instruction, and the pictures beside it: left half before, right half after.
"""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from analogist.disk.foreign import decoded, existing
from analogist.disk.writing import shown
from analogist.experiments.design.inputs import Input, check_names, input_name
from analogist.experiments.evaluate.data import DataError, reduced
from analogist.grid.pictures import PictureError, read_picture
from analogist.grid.prompt_grid import PromptGrid

GROUP, LABELS = "Group1", "labels.json"
KEYS = ("img_name", "edit_instruction")  # of a label; the descriptions of both halves are not used
PER_TASK = 30  # analogies, as published: 6,540 of 218 tasks


class DataWarning(UserWarning):
    """Something of a data set was left out; the message says what."""


def read_relation252k(root: str | Path, *, tasks: Sequence[str] | None = None, limit: int | None = None, size: int = 512) -> list[Input]:
    """Analogies by task: pair k of labels.json is the example, pair k + 1 (after the last the first) gives B and the true B'.

    Which pairs the published benchmark took is not in the data set. The prompt is B's edit_instruction, as the published methods get it.
    root: the data set's folder. tasks: names of its folders. limit: analogies per task (None: 30). size: of the grid; halves are kept at
    the size of its cells. Labels whose picture is missing are left out with a DataWarning, as in the authors' own reader.
    Raises DataError that names the file, entry or key that is wrong.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise DataError(f"{shown(folder)}: no such folder; `analogist data fetch relation252k --out {shown(folder)}` downloads it")
    there = {path.name: path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")}
    unknown = [task for task in tasks or () if task not in there]
    if unknown:
        raise DataError(f"tasks {unknown}: this folder has {', '.join(there) or 'none'}")
    found = [
        one for name, path in there.items() if tasks is None or name in tasks
        for one in _task(name, path, PER_TASK if limit is None else limit, size // 2)
    ]  # fmt: skip
    if not found:
        raise DataError(f"{shown(folder)}: not the layout of Relation252K; expected <task>/{GROUP}/{LABELS}")
    check_names(found)
    return found


def _task(name: str, folder: Path, limit: int, side: int) -> list[Input]:
    place = folder / GROUP
    if not (place / LABELS).is_file():
        others = sorted(path.parent for path in folder.glob(f"*/{LABELS}"))
        if len(others) != 1:
            raise DataError(f"{shown(place / LABELS)}: no such file; every task has one")
        place = others[0]  # a task whose group has another name
    labels = read_relation_labels(place / LABELS)
    pairs = [(label, existing(place / label["img_name"])) for label in labels]
    missing = [path for _, path in pairs if not path.is_file()]
    if missing:
        warnings.warn(
            f"{shown(place)}: {len(missing)} of {len(pairs)} pictures of {LABELS} are missing, first {missing[0].name}; they are left out "
            "(`analogist data fetch relation252k` completes a download)", DataWarning, stacklevel=4,
        )  # fmt: skip
    pairs = [pair for pair in pairs if pair[1].is_file()]
    if len(pairs) < 2:
        raise DataError(f"{shown(place)}: {len(pairs)} pairs; an analogy takes two")
    halves: dict[int, tuple[Image.Image, Image.Image]] = {}
    out = []
    for k in range(min(limit, len(pairs))):
        after = (k + 1) % len(pairs)
        for i in (k, after):
            if i not in halves:
                halves[i] = _halves(pairs[i][1], side)
        example, target = halves[k], halves[after]
        if k > 1:  # not needed again; the first pair is, after the last one
            del halves[k - 1]
        text = pairs[after][0]["edit_instruction"]
        grid = PromptGrid(*example, target[0])
        out.append(Input(f"{input_name(name)[:80]}-{k:03d}", grid, text, truth=target[1], group=name))
    return out


def _halves(path: Path, side: int) -> tuple[Image.Image, Image.Image]:
    """The picture before and the one after the change, at most `side` px."""
    try:
        whole = read_picture(path, "pair")
    except PictureError as error:
        raise DataError(str(error)) from error
    middle = whole.width // 2
    if middle < 1:
        raise DataError(f"{shown(path)}: {whole.width} x {whole.height} px cannot hold two pictures side by side")
    return (
        reduced(whole.crop((0, 0, middle, whole.height)), side),
        reduced(whole.crop((middle, 0, whole.width, whole.height)), side),
    )


def read_relation_labels(path: Path) -> list[dict[str, str]]:
    """The entries of a labels.json. Raises DataError naming the entry and key that is missing or not a text."""
    try:
        data = json.loads(decoded(path.read_bytes()))
    except OSError as error:
        raise DataError(f"{shown(path)}: cannot be read ({error.strerror or error})") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{shown(path)}: not JSON ({str(error)[:160]})") from error
    if not isinstance(data, list) or not data:
        raise DataError(f"{shown(path)}: expected a list of objects with {', '.join(KEYS)}")
    seen: set[str] = set()
    for number, entry in enumerate(data):
        wrong = [key for key in KEYS if not isinstance(entry, dict) or not isinstance(entry.get(key), str) or not entry[key].strip()]
        if wrong:
            raise DataError(f"{shown(path)}: entry {number} has no {' and no '.join(wrong)}")
        name = entry["img_name"]
        if name in seen or "/" in name or "\\" in name or name.startswith("."):
            what = "is listed twice" if name in seen else "is not the name of a file beside it"
            raise DataError(f"{shown(path)}: entry {number}: img_name {name!r} {what}")
        seen.add(name)
    return data
