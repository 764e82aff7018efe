"""Where each benchmark's files are published, and which of them an evaluation needs."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from analogist.experiments.evaluate.data import CATEGORIES, PICTURES
from analogist.experiments.evaluate.kiva import DOMAINS, NAME, PLACES, TRACKER
from analogist.experiments.evaluate.lorweb import EDITS, ORIGINALS
from analogist.experiments.evaluate.relation252k import LABELS

Wanted = Callable[[str, Sequence[str] | None], bool]  # whether a file, by its path, is needed for tasks (None: all)


@dataclass(frozen=True)
class Source:
    """One published data set.

    where: "hub" (a data set of the hub) or "github". repository: owner/name. folders: the places inside a GitHub repository, the first
    that exists is taken; "" for the hub. licence: as far as known, where the repository itself does not say. layout: what is expected,
    in words, for the error.
    """

    where: str
    repository: str
    wanted: Wanted
    layout: str
    folders: tuple[str, ...] = ("",)
    licence: str = ""


def _analogist(path: str, tasks: Sequence[str] | None) -> bool:
    """The grids with and without B' and the prompts; the marked grids, `<task>_masked_marked`, are needed by no run."""
    category, _, rest = path.partition("/")
    task = rest.split("/")[0].removesuffix("_gpt4_out.txt").removesuffix("_masked")
    return task in CATEGORIES.get(category, ()) and (tasks is None or task in tasks)


def marked_too(path: str, tasks: Sequence[str] | None) -> bool:
    """As for a run of the published set, and the marked grids besides."""
    return _analogist(path.replace("_masked_marked/", "_masked/"), tasks)


def _kiva(path: str, tasks: Sequence[str] | None) -> bool:
    domain, _, name = path.partition("/")
    match = NAME.fullmatch(name) or re.fullmatch(r"output_(?P<transform>.+)\.txt", name)
    if match is None or domain not in (*DOMAINS, TRACKER):
        return False
    transform = match["transform"]
    return tasks is None or transform in tasks or any(transform.startswith(one) for one in DOMAINS if one in tasks)


def _is_picture(name: str) -> bool:
    return name.lower().endswith(PICTURES)


def _lorweb(path: str, tasks: Sequence[str] | None) -> bool:
    """All originals, and the edits of groups or instructions."""
    parts = path.removeprefix("data/").split("/")
    if not _is_picture(parts[-1]):
        return False
    chosen = tasks is None or bool(set(parts[2:4]) & set(tasks))
    return (parts[0] == ORIGINALS and len(parts) == 3) or (parts[0] == EDITS and len(parts) == 5 and chosen)


def _relation252k(path: str, tasks: Sequence[str] | None) -> bool:
    parts = path.split("/")
    wanted = len(parts) == 3 and (parts[-1] == LABELS or _is_picture(parts[-1]))
    return wanted and (tasks is None or parts[0] in tasks)


SOURCES: dict[str, Source] = {
    "analogist": Source(
        "hub", "picana/Analogist", _analogist, "low_level_tasks_processed/<task>_masked/*.png and so on", licence="cc-by-4.0"
    ),
    "kiva": Source(
        "github", "ey242/KiVA", _kiva, f"{PLACES[0]}/KiVA/<Domain>/<Transform>_<trial>_<part>.png",
        folders=tuple(f"{place}/KiVA" for place in PLACES),
    ),
    "lorweb": Source("hub", "hilamanor/LoRWeB_evalset", _lorweb, f"data/{EDITS}/<set>/<group>/<Instruction>/<photo>_<k>.png"),
    "relation252k": Source("hub", "handsomeWilliam/Relation252K", _relation252k, f"<task>/Group1/{LABELS}"),
}  # fmt: skip
