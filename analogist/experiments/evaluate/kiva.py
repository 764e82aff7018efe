"""KiVA (Yiu et al. 2024): objects changed by a rule, with the true B' and a wrong one; its reader and its choice metrics.

Published layout (repository ey242/KiVA, folder `transformed objects/KiVA`; KiVA-adults likewise):
`<Domain>/<Transform>_<trial>_<part>.png`, and `trial_tracker/output_<Transform>.txt` with the parameters of every trial in order.
"""

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from analogist.disk.writing import shown
from analogist.experiments.design.inputs import Input, check_names
from analogist.experiments.design.levels import StudyError
from analogist.experiments.design.own import OwnMetric
from analogist.experiments.evaluate.data import DataError, text_lines
from analogist.experiments.score.metrics import mse
from analogist.grid.fit import fitted
from analogist.grid.pictures import PictureError, read_picture
from analogist.grid.prompt_grid import PromptGrid

DOMAINS = ("2DRotation", "Colour", "Counting", "Reflect", "Resize")
# Inside the repository, by its versions. KiVA-adults has the same places under its own name.
PLACES = ("transformed objects", "stimuli")
# Role -> the parts of file names that stand for it: KiVA's, KiVA-adults'.
PARTS = {
    "A": ("train_0_input", "train_input"), "A'": ("train_0_output", "train_output"), "B": ("test_0_input", "test_input"),
    "the true B'": ("test_mc_0_input",), "the wrong B'": ("test_mc_1_input",),
}  # fmt: skip
NAME = re.compile(r"(?P<transform>.+?)_(?P<trial>\d+)_(?P<part>" + "|".join(part for parts in PARTS.values() for part in parts) + r")\.png")
TRACKER = "trial_tracker"


@dataclass(frozen=True, eq=False)
class KivaInput(Input):
    """One trial. b: B as published. wrong: the wrong choice. rule: what the tracker says of the trial, empty where there is none."""

    b: Image.Image | None = None
    wrong: Image.Image | None = None
    rule: dict[str, str] = field(default_factory=dict)


def kiva_folder(root: Path, name: str = "KiVA") -> Path:
    """The folder that holds the domains: the given one, or its place in the repository. Raises DataError if there is none."""
    if not root.is_dir():
        raise DataError(f"{shown(root)}: no such folder; `analogist data fetch kiva --out {shown(root)}` downloads it")
    tried = [root, root / name, *(root / place / name for place in PLACES)]
    for folder in tried:
        if any((folder / domain).is_dir() for domain in DOMAINS):
            return folder
    raise DataError(f"{shown(root)}: not the layout of {name}; expected folders {', '.join(DOMAINS)} in it or in {PLACES[0]}/{name}")


def read_kiva(root: str | Path, *, tasks: Sequence[str] | None = None, limit: int | None = None, size: int = 512) -> list[Input]:
    """The trials of a folder by domain, transformation and number, as inputs of the group `<Domain>/<Transform>`.

    root: the folder of the domains, or of the repository. tasks: domains or transformations. limit: trials per transformation.
    size: not used, the pictures are fitted where the grids are drawn. There is no prompt: KiVA gives none.
    Raises DataError that names the file, trial or tracker that is missing or unexpected.
    """
    folder = kiva_folder(Path(root))
    trackers, found = folder / TRACKER, []
    transforms = {name: trials for domain in DOMAINS if (folder / domain).is_dir() for name, trials in _trials(folder / domain).items()}
    allowed = [*(domain for domain in DOMAINS if (folder / domain).is_dir()), *(name for _, name in transforms)]
    unknown = [task for task in tasks or () if task not in allowed]
    if unknown:
        raise DataError(f"tasks {unknown}: this folder has {', '.join(allowed)}")
    for (domain, transform), trials in transforms.items():
        if tasks is not None and domain not in tasks and transform not in tasks:
            continue
        rules = read_tracker(trackers / f"output_{transform}.txt") if trackers.is_dir() else None
        for number in sorted(trials)[:limit]:
            parts = trials[number]
            missing = [f"{role} ({transform}_{number}_{PARTS[role][0]}.png)" for role in PARTS if role not in parts]
            if missing:
                raise DataError(f"{shown(folder / domain)}: trial {number} of {transform} has no {', no '.join(missing)}")
            if rules is not None and number >= len(rules):
                raise DataError(
                    f"{shown(trackers / f'output_{transform}.txt')}: {len(rules)} trials, but there are pictures of trial {number} "
                    "(trials count from 0)"
                )
            found.append(_input(domain, transform, number, parts, {} if rules is None else rules[number]))
    if not found:
        raise DataError(f"{shown(folder)}: there are no trials in it")
    check_names(found)
    return found


def _trials(folder: Path) -> dict[tuple[str, str], dict[int, dict[str, Path]]]:
    """(domain, transformation) -> trial -> role -> file, transformations by name."""
    roles = {part: role for role, parts in PARTS.items() for part in parts}
    found: dict[tuple[str, str], dict[int, dict[str, Path]]] = {}
    for path in sorted(folder.glob("*.png")):
        if path.name.startswith("."):
            continue
        match = NAME.fullmatch(path.name)
        if match is None or not match["transform"].startswith(folder.name):
            raise DataError(
                f"{shown(path)}: not the name of a trial's picture; expected {folder.name}..._<trial>_<part>.png, where <part> is "
                f"one of {', '.join(roles)}"
            )
        parts = found.setdefault((folder.name, match["transform"]), {}).setdefault(int(match["trial"]), {})
        role = roles[match["part"]]
        if role in parts:
            raise DataError(f"{shown(path)}: {role} of this trial is present twice, also as {parts[role].name}")
        parts[role] = path
    return found


def _input(domain: str, transform: str, number: int, parts: dict[str, Path], rule: dict[str, str]) -> KivaInput:
    try:
        pictures = {role: read_picture(path, role) for role, path in parts.items()}
    except PictureError as error:
        raise DataError(str(error)) from error
    name = f"{transform}_{number}".replace("+", "_plus")  # names of inputs have no plus, and -90 is another transformation
    grid = PromptGrid(pictures["A"], pictures["A'"], pictures["B"])
    return KivaInput(
        name, grid, truth=pictures["the true B'"], group=f"{domain}/{transform}", b=pictures["B"], wrong=pictures["the wrong B'"],
        rule=rule,
    )  # fmt: skip


def read_tracker(path: Path) -> list[dict[str, str]]:
    """The parameters of every trial of a transformation. Raises DataError for a missing file, a line without a colon or an odd trial."""
    trials: list[dict[str, str]] = []
    for number, line in enumerate(text_lines(path), 1):
        if not line.strip():
            continue
        key, colon, value = (part.strip() for part in line.partition(":"))
        if not colon or not key:
            raise DataError(f"{shown(path)}, line {number}: {line[:80]!r}; expected `key: value`, such as `mc: 180`")
        if not trials or key in trials[-1]:
            trials.append({})
        trials[-1][key] = value
        if set(trials[0]) != set(trials[-1]) and len(trials[-1]) == len(trials[0]):
            raise DataError(f"{shown(path)}, line {number}: trial {len(trials) - 1} has other keys than the first ({', '.join(trials[0])})")
    if trials and set(trials[-1]) != set(trials[0]):
        raise DataError(f"{shown(path)}: trial {len(trials) - 1} is cut off; expected {', '.join(trials[0])}")
    return trials


def _nearest(b_prime: Image.Image, truth: Image.Image | None, example: KivaInput, others: Sequence[str]) -> float:
    """1 where the truth is nearest to B' by mean squared error, 0 where another is, a share where several are as near.

    others: names of the example's pictures to compare with; they are fitted into the cell as the truth was.
    """
    given = [getattr(example, name, None) for name in others]
    if truth is None or any(one is None for one in given):
        raise StudyError("this input has no wrong choice beside its true B'")
    fit = example.grid.fit
    errors = [mse(b_prime, fitted(one.convert("RGB"), b_prime.size, fit)) for one in (truth, *given) if one is not None]
    best = min(errors)
    return errors.count(best) ** -1 if errors[0] == best else 0.0


def choice(b_prime: Image.Image, truth: Image.Image | None, example: KivaInput) -> float:
    """B' is nearer to the truth than to the wrong choice (chance 1/2)."""
    return _nearest(b_prime, truth, example, ["wrong"])


def choice_of_three(b_prime: Image.Image, truth: Image.Image | None, example: KivaInput) -> float:
    """B' is nearer to the truth than to the wrong choice and to the unchanged B, KiVA's own three choices (chance 1/3)."""
    return _nearest(b_prime, truth, example, ["wrong", "b"])


CHOICES = tuple(dataclasses.replace(OwnMetric.of(one), better="higher") for one in (choice, choice_of_three))
