"""The evaluation set of LoRWeB (Manor et al. 2026): photos, edits of them that no training set holds, and other photos to edit alike.

Published layout (hub data set hilamanor/LoRWeB_evalset): originals in `data/original/<group>/<photo>.jpg`, where the group may have a
prefix (`unsplash_animals`), and edits in `data/decoded_random_inference_set/<set>/<group>/<Instruction_in_words>/<photo>_<k>.png`.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from analogist.disk.foreign import composed
from analogist.disk.writing import shown
from analogist.experiments.design.inputs import Input, check_names, input_name
from analogist.experiments.evaluate.data import PICTURES, DataError, reduced
from analogist.grid.fit import fitted
from analogist.grid.pictures import PictureError, read_picture
from analogist.grid.prompt_grid import PromptGrid

ORIGINALS, EDITS = "original", "decoded_random_inference_set"
PER_EDIT = 2  # photos B per edited photo, as published
ASPECT = 0.15  # most that the aspect ratio of B may differ from that of A, as published
Triplet = tuple[Path, Path, Path]  # A, A', B


def read_lorweb(root: str | Path, *, tasks: Sequence[str] | None = None, limit: int | None = None, size: int = 512) -> list[Input]:
    """The triplets of a folder by task, as inputs of the group `<group>/<Instruction_in_words>`; the instruction is the prompt.

    Which B goes with which edit is not in the data set: two photos of the group with nearly A's aspect ratio are drawn by a hash of the
    edit's name, so that they are the same in every run, and cropped to A's. There is no true B'.
    root: the data set's folder, or its `data`. tasks: groups or instructions. limit: triplets per task. size: of the grid; pictures are
    kept at most that large. Raises DataError that names the file or folder that is missing or unexpected.
    """
    data = _data_folder(Path(root))
    originals = _originals(data / ORIGINALS)
    edited = _edited(data / EDITS)
    allowed = list(dict.fromkeys(part for key in edited for part in key))
    unknown = [task for task in tasks or () if task not in allowed]
    if unknown:
        raise DataError(f"tasks {unknown}: this folder has {', '.join(allowed)}")
    found: list[Input] = []
    for (group, instruction), paths in edited.items():
        if tasks is not None and group not in tasks and instruction not in tasks:
            continue
        photos = _photos_of(group, originals, data)
        triplets = [triplet for path in paths for triplet in _triplets(path, group, photos)]
        for number, triplet in enumerate(triplets[:limit]):
            found.append(_input(group, instruction, number, triplet, size))
    check_names(found)
    return found


def _data_folder(root: Path) -> Path:
    if not root.is_dir():
        raise DataError(f"{shown(root)}: no such folder; `analogist data fetch lorweb --out {shown(root)}` downloads it")
    for folder in (root, root / "data"):
        if (folder / EDITS).is_dir():
            break
    else:
        raise DataError(f"{shown(root)}: not the layout of LoRWeB's evaluation set; expected data/{EDITS}/<set>/<group>/<Instruction>/")
    if not (folder / ORIGINALS).is_dir():
        raise DataError(
            f"{shown(folder / ORIGINALS)}: no such folder; the original photos (Unsplash) belong there, by group; the data set's README "
            "says where to get them if they are not in it"
        )
    return folder


def _pictures(folder: Path) -> list[Path]:
    found = (path for path in folder.iterdir() if path.suffix.lower() in PICTURES and not path.name.startswith("."))
    return sorted(found, key=lambda path: composed(path.name))


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _originals(folder: Path) -> dict[str, list[Path]]:
    return {path.name: _pictures(path) for path in _folders(folder)}


def _edited(folder: Path) -> dict[tuple[str, str], list[Path]]:
    """(group, instruction) -> edited photos, over all sets."""
    found: dict[tuple[str, str], list[Path]] = {}
    for chosen in _folders(folder):
        for group in _folders(chosen):
            for instruction in _folders(group):
                paths = _pictures(instruction)
                if not paths:
                    raise DataError(f"{shown(instruction)}: it holds no picture")
                found.setdefault((group.name, instruction.name), []).extend(paths)
    if not found:
        raise DataError(f"{shown(folder)}: no edited photos; expected <set>/<group>/<Instruction>/<photo>_<k>.png")
    return found


def _photos_of(group: str, originals: dict[str, list[Path]], data: Path) -> list[Path]:
    """The originals of a group: of the folder of its name, or of a name that ends in it."""
    named = [name for name in originals if name == group or name.endswith(f"_{group}")]
    if len(named) != 1:
        what = "no folder" if not named else f"several folders ({', '.join(named)})"
        raise DataError(f"{shown(data / ORIGINALS)}: {what} of the group {group}; expected {group} or ..._{group}")
    if len(originals[named[0]]) < 2:
        raise DataError(f"{shown(data / ORIGINALS / named[0])}: {len(originals[named[0]])} photos; a triplet needs another photo as B")
    return originals[named[0]]


def _triplets(path: Path, group: str, photos: Sequence[Path]) -> list[Triplet]:
    """The original of an edited photo, the edit, and its photos B, at most PER_EDIT."""
    stem = composed(path.stem.rpartition("_")[0])
    a = next((photo for photo in photos if composed(photo.stem) == stem), None)
    if a is None or not path.stem.rpartition("_")[2].isdigit():
        raise DataError(f"{shown(path)}: no original {stem or path.stem} among the photos of {group}; expected <photo>_<k>.png")
    ratio = _ratio(a)
    alike = [photo for photo in photos if photo != a and abs(_ratio(photo) - ratio) <= ASPECT]
    if not alike:
        raise DataError(f"{shown(a)}: no other photo of {group} has its aspect ratio ({ratio:.2f}, up to {ASPECT} apart) to be B")
    edit = f"{group}/{path.parent.name}/{composed(path.name)}"
    drawn = sorted(alike, key=lambda photo: hashlib.sha256(f"{edit}/{composed(photo.name)}".encode()).hexdigest())
    return [(a, path, b) for b in drawn[:PER_EDIT]]


def _ratio(path: Path) -> float:
    """Width over height, from the file's header; of a turned photo as it is seen."""
    try:
        with Image.open(path) as picture:
            turned = picture.getexif().get(0x0112, 1) >= 5  # EXIF orientation
            return picture.height / picture.width if turned else picture.width / picture.height
    except OSError as error:
        raise DataError(f"{shown(path)}: not a picture ({error})") from error


def _input(group: str, instruction: str, number: int, triplet: Triplet, size: int) -> Input:
    try:
        a, a_prime, b = (reduced(read_picture(path, role), size) for path, role in zip(triplet, ("A", "A'", "B"), strict=True))
    except PictureError as error:
        raise DataError(str(error)) from error
    scale = min(b.width / a.width, b.height / a.height)
    b = fitted(b, (max(1, round(a.width * scale)), max(1, round(a.height * scale))), "crop")
    name = input_name(f"{group} {instruction}")[:80].rstrip() + f"-{number}"
    key = hashlib.sha256(f"{group}/{instruction}".encode()).hexdigest()[:6]  # long instructions may begin alike
    return Input(f"{name}-{key}", PromptGrid(a, a_prime, b), instruction.replace("_", " ").strip(), group=f"{group}/{instruction}")
