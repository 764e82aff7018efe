"""Inputs of studies and evaluations: a grid with its prompt and, if known, the true answer.

From files, ready grids, the bundled examples, the built-in drawings by people or the lab's own drawings (different ones for every seed).
"""

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from PIL import Image

from analogist.checkpoints.prompt_words import check_text
from analogist.disk.foreign import composed, existing
from analogist.experiments.design.function_keys import class_fingerprint, fingerprint
from analogist.experiments.design.levels import StudyError
from analogist.grid.pictures import read_picture
from analogist.grid.prompt_grid import PromptGrid
from analogist.models.numbers import plain

FIELDS = ("name", "a", "a_prime", "b", "b_prime", "grid", "prompt", "wrong_prompt", "group")


@dataclass(frozen=True, eq=False)
class Input:
    """One analogy to run.

    name: unique in a study. grid: A, A' and B. prompt: what B' shows. wrong_prompt: a prompt that does not fit.
    truth: the true B', in any size; it is fitted into its cell as the grid's pictures are. group: a task or family, over which results
    are averaged. strength, guidance: None: the study's.
    """

    name: str
    grid: PromptGrid
    prompt: str = ""
    wrong_prompt: str | None = None
    truth: Image.Image | None = None
    group: str = ""
    strength: float | None = None
    guidance: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise StudyError(f"input name {self.name!r}: expected a text")
        object.__setattr__(self, "name", composed(self.name))
        odd = not 1 <= len(self.name) <= 120 or not all(map(_allowed, self.name))
        if odd or self.name.startswith(("/", ".")) or ".." in self.name:
            raise StudyError(f"input name {self.name!r}: up to 120 letters, digits, spaces and _ . - ( ) / are allowed")
        for what, text in (("prompt", self.prompt), ("wrong_prompt", "" if self.wrong_prompt is None else self.wrong_prompt)):
            try:
                check_text(text, what)
            except ValueError as error:
                raise StudyError(f"input {self.name}: {error}") from None

    @property
    def file_name(self) -> str:
        """The name as part of a file name."""
        name = re.sub(r"[()' /]+", "-", self.name)
        raw = name.encode()
        # File systems allow 255 bytes, which must include a seed and a key; a letter may take four bytes.
        return name if len(raw) <= 150 else raw[:130].decode("utf-8", "ignore") + "-" + hashlib.sha256(raw).hexdigest()[:12]

    def truth_key(self) -> str | None:
        """A content key of the true answer as it is compared: cropped or padded like the grid's pictures, it is another one."""
        if self.truth is None:
            return None
        fit = self.grid.fit if self.grid.fit in ("crop", "pad") else ""  # stretched ones keep the keys that they have always had
        return hashlib.sha256(self.truth.convert("RGB").tobytes() + fit.encode()).hexdigest()


    def example_key(self) -> str:
        """A content key of what own metrics read in their `example`: all fields but the grid, whose picture is in the job's key already.

        Of a class from elsewhere, such as a subclass of a researcher's own, its source too. Raises StudyError for what cannot be hashed.
        """
        cls, held = type(self), {}
        for name in (one.name for one in fields(self) if one.name != "grid"):
            try:
                held[name] = fingerprint(getattr(self, name), name)
            except StudyError as error:
                raise StudyError(
                    f"input {self.name}: its field {name} cannot be hashed, so that a change of it would go unnoticed by own metrics, "
                    "which may read it; give texts, numbers, pictures, arrays, or lists and mappings of them"
                ) from error
        ours = cls.__module__.partition(".")[0] == "analogist"
        return fingerprint([held, cls.__qualname__ if ours else class_fingerprint(cls, f"input {self.name}")], f"input {self.name}")


def _allowed(character: str) -> bool:
    """Whether a character is a letter of any script, a mark, a digit, or harmless in a file name."""
    return character.isalnum() or character in "_.()' /-" or unicodedata.category(character).startswith("M")


def input_name(text: str) -> str:
    """A name made from any text, such as a file name; characters that are not allowed become "-"."""
    name = "".join(one if _allowed(one) and one != "/" else "-" for one in composed(text))
    return re.sub(r"\.\.+", ".", name).lstrip(".")[:100] or "input"


def from_json(data: object, size: int) -> list[Input]:
    """The inputs of a study file: "examples", or a list of objects.

    {"a", "a_prime", "b"} or {"grid"} with paths, optional "b_prime", "prompt", "wrong_prompt", "name",
    "group"; {"example": name}; {"lab": [families], "count": n, "seed": s}: n of the lab's held-out drawings per family;
    {"drawings": [kinds] or "all", "count": n, "seed": s, "prompts": true}: n built-in drawings by people per kind of change.
    size: of drawings, in pixels. Raises StudyError that names the entry.
    """
    if data == "examples":
        data = [{"example": name} for name in _example_names()]
    if not isinstance(data, list) or not data:
        raise StudyError('inputs: give a list of {"a", "a_prime", "b"}, {"grid"}, {"example"}, {"drawings"} or {"lab"}, or "examples"')
    found: list[Input] = []
    for position, entry in enumerate(data):
        if isinstance(entry, str):
            entry = {"example": entry}
        if not isinstance(entry, dict):
            raise StudyError(f"inputs[{position}] {entry!r}: give an object")
        if "lab" in entry:
            found += _lab(entry, size)
        elif "drawings" in entry:
            found += _drawings(entry, size)
        elif "example" in entry:
            found.append(_example(entry))
        else:
            found.append(_files(entry, position))
    check_names(found)
    return found


def counted(data: object, count: int) -> list[dict]:
    """A study's inputs with another number of drawn ones: `count` per kind of change or family.

    Raises StudyError unless all inputs are drawn ("drawings" or "lab"), or for a count out of range.
    """
    given = data if isinstance(data, list) else []
    drawn = [entry for entry in given if isinstance(entry, dict) and ("drawings" in entry or "lab" in entry)]
    if not drawn or len(drawn) < len(given):
        raise StudyError(
            f"count {count}: this study's inputs are pictures that are given, not drawn. A number per kind can be set only where all are "
            '{"drawings": ...} or {"lab": ...}'
        )
    return [entry | {"count": _count({"count": count}, "inputs")} for entry in drawn]


def beside(data: object, folder: Path) -> object:
    """The inputs of a study file, with paths resolved against the file's folder."""
    if not isinstance(data, list):
        return data
    out = []
    for entry in data:
        if isinstance(entry, dict):
            entry = dict(entry)
            for key in ("a", "a_prime", "b", "b_prime", "grid"):
                if isinstance(entry.get(key), str):
                    entry[key] = str(existing(folder / entry[key]))
                elif isinstance(entry.get(key), list):
                    entry[key] = [str(existing(folder / one)) for one in entry[key]]
        out.append(entry)
    return out


def check_names(inputs: Sequence[Input], of: str = "") -> None:
    """Raises StudyError if the pictures of two inputs would have the same file name, on disks that ignore capitals too.

    of: the file that lists the inputs, for the message.
    """
    where = f"{of}: " if of else ""
    seen: dict[str, Input] = {}
    for one in inputs:
        other = seen.setdefault(one.file_name.casefold(), one)
        if other is one:
            continue
        if other.name == one.name:
            raise StudyError(f"{where}two inputs are named {one.name!r}; give each its own name")
        raise StudyError(f"{where}the inputs {other.name!r} and {one.name!r} would share a file name; give them names that differ more")


def dealt(inputs: Sequence[Input]) -> list[Input]:
    """The inputs in turns: the first of every group, then the second of every group, and so on."""
    place: dict[str, int] = {}
    turns = []
    for one in inputs:
        place[one.group] = place.get(one.group, -1) + 1
        turns.append(place[one.group])
    return [one for _, one in sorted(zip(turns, inputs, strict=True), key=lambda pair: pair[0])]


def _files(entry: dict, position: int) -> Input:
    unknown = sorted(set(entry) - set(FIELDS))
    if unknown:
        raise StudyError(f"inputs[{position}]: unknown keys {unknown}; allowed are {', '.join(FIELDS)}, example, drawings or lab")

    if "grid" in entry:
        if {"a", "a_prime", "b"} & set(entry):
            raise StudyError(f"inputs[{position}]: a ready grid holds A, A' and B; leave out a, a_prime and b")
        grid, named_after = PromptGrid.from_image(entry["grid"]), entry["grid"]
    else:
        missing = [key for key in ("a", "a_prime", "b") if key not in entry]
        if missing:
            listed = ", ".join(missing)
            raise StudyError(f"inputs[{position}]: {listed} missing; give a, a_prime and b, a ready grid, example, drawings or lab")
        grid, named_after = PromptGrid(entry["a"], entry["a_prime"], entry["b"]), entry["b"]
    truth = read_picture(entry["b_prime"], "B'") if "b_prime" in entry else None
    return Input(
        entry.get("name", input_name(Path(named_after).stem)), grid, entry.get("prompt", ""), entry.get("wrong_prompt"), truth,
        entry.get("group", ""),
    )  # fmt: skip


def _example_names() -> list[str]:
    from analogist import examples

    return list(examples.names())


def _example(entry: dict) -> Input:
    from analogist import examples

    unknown = sorted(set(entry) - {"example", "prompt", "wrong_prompt", "name", "group"})
    if unknown:
        raise StudyError(f"example {entry['example']!r}: unknown keys {unknown}")
    example = examples.load(entry["example"])
    names = _example_names()
    other = examples.load(names[(names.index(entry["example"]) + 1) % len(names)])
    wrong = entry.get("wrong_prompt", other.prompt if other.prompt != example.prompt else None)
    return Input(
        entry.get("name", entry["example"]), example.grid(), entry.get("prompt", example.prompt), wrong,
        read_picture(example.path("b_prime_truth"), "B'"), entry.get("group", example.family),
    )  # fmt: skip


def _count(entry: dict, what: str) -> int:
    count = plain(entry.get("count", 1))
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= 10_000:
        raise StudyError(f"{what}: count {count!r}: expected a whole number from 1 to 10000")
    return count


def _drawings(entry: dict, size: int) -> list[Input]:
    unknown = sorted(set(entry) - {"drawings", "count", "seed", "prompts"})
    if unknown:
        raise StudyError(f"drawings: unknown keys {unknown}; allowed are drawings (kinds of change or \"all\"), count, seed, prompts")
    kinds = entry["drawings"]
    return drawing_inputs(
        kinds if kinds == "all" or isinstance(kinds, list) else [kinds], count=_count(entry, "drawings"), seed=entry.get("seed", 0),
        size=size, prompts=entry.get("prompts", True),
    )  # fmt: skip


def drawing_inputs(kinds: Sequence[str] | str = "all", *, count: int, seed: int = 0, size: int, prompts: bool = True) -> list[Input]:
    """The built-in drawings by people: `count` analogies per kind of change, with exact answers.

    kinds: of `analogist.examples.by_people.KINDS`, or "all". size: of the grid in pixels; changes are drawn at the size of its cells.
    prompts: True: the name of the drawing in B'; False: none. The wrong prompt is the next analogy's.
    """
    from analogist.examples import by_people
    from analogist.grid.layout import Layout

    known = list(by_people.KINDS)
    chosen = known if kinds == "all" else list(kinds)
    unknown = [kind for kind in chosen if kind not in known]
    if unknown:
        raise StudyError(f"drawings {unknown}: allowed are {', '.join(known)}, or \"all\"")
    left, _, right, _ = Layout(rows=2, height=size, width=size, drawn_height=size, drawn_width=size).pictures()["A"]
    found = [one for kind in chosen for one in by_people.analogies(kind, count=count, side=right - left, seed=seed)]
    return [
        Input(
            one.name, PromptGrid(one.a, one.a_prime, one.b, size), one.prompt if prompts else "", found[(i + 1) % len(found)].prompt,
            one.b_prime, one.kind,
        )
        for i, one in enumerate(found)
    ]  # fmt: skip


def _lab(entry: dict, size: int) -> list[Input]:
    unknown = sorted(set(entry) - {"lab", "count", "seed", "held_out_pairs"})
    if unknown:
        raise StudyError(
            f"lab inputs: unknown keys {unknown}; allowed are lab (families, trained, held-out, all), count, seed, held_out_pairs"
        )
    from analogist.lab.split import FAMILIES, HELD_OUT, TRAINED

    families = entry["lab"]
    words = {"trained": list(TRAINED), "held-out": list(HELD_OUT), "all": list(FAMILIES)}
    families = words.get(families, families) if isinstance(families, str) else families
    families = [families] if isinstance(families, str) else families
    count = _count(entry, "lab inputs")
    pairs = entry.get("held_out_pairs", False)
    return lab_inputs(list(families), count=count, seed=entry.get("seed", 0), size=size, held_out_pairs=pairs)


def lab_inputs(families: Sequence[str], *, count: int, seed: int = 0, size: int, held_out_pairs: bool = False) -> list[Input]:
    """The lab's own drawings that training never saw: `count` grids per family, with captions and true answers.

    seed: counted from the first evaluation seed. size: of the grid, in pixels.
    The wrong prompt is the next different caption.
    """
    from analogist.grid.prompt_grid import to_image
    count, seed, size = plain(count), plain(seed), plain(size)
    from analogist.lab.grids import evaluation_batch
    from analogist.lab.split import EVALUATION_SEED, FAMILIES

    unknown = [family for family in families if family not in FAMILIES]
    if unknown:
        raise StudyError(f"lab families {unknown}: allowed are {', '.join(FAMILIES)}")
    drawn: list[tuple[str, Image.Image, str, Image.Image]] = []
    for family in families:
        for k in range(count):
            # Each family has its own seeds: with the same seeds, all would be drawn from the same scenes.
            number = EVALUATION_SEED + FAMILIES.index(family) * 1_000_000 + seed + k
            batch = evaluation_batch([family], size=size, seed=number, held_out_pairs=held_out_pairs)
            whole = to_image(batch.pixels[0])
            grid = PromptGrid.from_image(whole, size)
            drawn.append((f"{family}-{seed + k}", whole, batch.captions[0], grid.crop(whole, without_border=True)))
    found = []
    for i, (name, whole, caption, truth) in enumerate(drawn):
        others = [text for _, _, text, _ in drawn[i + 1 :] + drawn[:i] if text != caption]
        found.append(
            Input(
                name, PromptGrid.from_image(whole, size), caption, others[0] if others else None, truth, name.rpartition("-")[0]
            )
        )
    return found
