"""Levels of the factors that say where SAC and CAM act: turns short texts for layers, steps, heads and branches into placements."""

import re

from analogist.experiments.design.space import Space
from analogist.models.placement import NEGATIVE, TEXT, Placement
from analogist.run.layers import parse_layers

LAYER_LEVELS = (
    "none, all, base, layer numbers with both ends included (3-10; 3,5,8), site patterns (up.*), encoder, middle, decoder, "
    "1/4 (a resolution of the latents), 16x16 (a token map), 'without X', a placement object; and lists of levels: each, "
    "each-left-out, parts, resolutions, 'ranges N'"
)
STEP_LEVELS = (
    "all, executed steps with both ends included (0-9; 0,2,9), a list of numbers, 0%-50%; "
    "and lists of levels: thirds, 'windows N'"
)


class StudyError(ValueError):
    """A study cannot be run as written. The message names the factor or field and what is allowed."""


def expand_layers(level: object, base: Placement | None, space: Space) -> list[object]:
    """The levels that a word stands for ("each", "each-left-out", "parts", "resolutions", "ranges N"); else only the level itself."""
    if not isinstance(level, str):
        return [level]
    word = level.strip()
    if word == "each":
        return [str(number) for number in space.numbers]
    if word == "each-left-out":
        if base is None:
            raise StudyError("each-left-out: nothing can be left out, because the base is off; give the base layers first")
        chosen = base_layers(base, space)
        return [f"without {number}" for number in chosen]
    if word == "parts":
        return [part for part in ("encoder", "middle", "decoder") if space.in_part(part)]
    if word == "resolutions":
        return [f"1/{stride}" for stride in space.resolutions()]
    ranges = re.fullmatch(r"ranges (\d+)", word)
    if ranges:
        width = int(ranges[1])
        if width < 1:
            raise StudyError("ranges 0: the width must be at least 1 layer")
        numbers = space.numbers
        chunks = [numbers[i : i + width] for i in range(0, len(numbers), width)]
        return [str(chunk[0]) if len(chunk) == 1 else f"{chunk[0]}-{chunk[-1]}" for chunk in chunks]
    return [level]


def base_layers(placement: Placement, space: Space) -> list[int]:
    """Numbers of the layers where a placement acts at least at one step, head and branch."""
    steps = {NO_STEP, *_steps(placement.to_json())}
    return [
        layer.number
        for layer in space.layers
        if any(placement.heads_at(layer.site, step, branch) for step in steps for branch in (NEGATIVE, TEXT))
    ]


NO_STEP = -1  # a step number that no placement names: only placements for all steps act here


def _steps(data: dict) -> set[int]:
    parts = data.get("any", [data[key] for key in ("of", "except") if key in data])
    return set(data.get("steps", ())).union(*(_steps(part) for part in parts))


def _plain(data: dict) -> bool:
    """Whether a placement acts at all steps, heads and branches of its layers."""
    return not {"steps", "heads", "branches"} & set(data)


def layers_level(level: object, base: Placement | None, space: Space, factor: str) -> Placement | None:
    """The placement of one level; None: off. The base's steps, heads and branches stay. Raises StudyError on an unknown level."""
    if isinstance(level, dict):
        return Placement.from_json(level)
    if isinstance(level, list | tuple):
        return _as_base(Placement.layers(list(level)), base)
    if isinstance(level, int) and not isinstance(level, bool):
        return _as_base(Placement.layers([level]), base)
    if not isinstance(level, str):
        raise StudyError(f"{factor} {level!r}: allowed are {LAYER_LEVELS}")
    word = level.strip()
    if word.startswith("without "):
        if base is None:
            raise StudyError(f"{factor} {level!r}: nothing can be left out, because the base is off")
        out = layers_level(word.removeprefix("without "), None, space, factor)
        return base if out is None else base - out
    if word == "base":
        return base
    if word == "none":
        return None
    numbers = _named_layers(word, space, factor)
    if numbers is not None:
        return _as_base(Placement.layers(numbers), base)
    return _as_base(parse_layers(word, factor), base)


def _named_layers(word: str, space: Space, factor: str) -> list[int] | None:
    """Numbers of the layers that a word names, or None if it is not such a word."""
    resolution, token_map = re.fullmatch(r"1/(\d+)", word), re.fullmatch(r"(\d+)x(\d+)", word)
    if word == "all":
        found = space.numbers
    elif word in ("encoder", "middle", "decoder"):
        found = space.in_part(word)
    elif resolution:
        found = space.at_stride(int(resolution[1]))
    elif token_map:
        found = space.at_map(int(token_map[1]), int(token_map[2]))
    else:
        return None
    if not found:
        there = sorted({f"1/{layer.stride} ({layer.hw[0]}x{layer.hw[1]})" for layer in space.layers})
        raise StudyError(f"{factor} {word!r}: there is no such layer; this checkpoint has {', '.join(there)}")
    return found


def _as_base(placement: Placement | None, base: Placement | None) -> Placement | None:
    """The placement with the steps, heads and branches of the base."""
    if placement is None or base is None:
        return placement
    data = base.to_json()
    if "any" in data or "of" in data:
        if not _all_plain(data):
            raise StudyError(
                "the base joins placements with different steps, heads or branches; give layer levels as placement objects"
            )
        return placement
    return restrict(placement, **{key: data[key] for key in ("steps", "heads", "branches") if key in data})


def _all_plain(data: dict) -> bool:
    parts = data.get("any", [data[key] for key in ("of", "except") if key in data])
    return all(_all_plain(part) for part in parts) if parts else _plain(data)


def restrict(placement: Placement, **where: object) -> Placement:
    """The placement with its steps, heads or branches replaced (None: all); exceptions are kept."""
    return Placement.from_json(_restrict(placement.to_json(), where))


def _restrict(data: dict, where: dict) -> dict:
    if "any" in data:
        return {"any": [_restrict(part, where) for part in data["any"]]}
    if "of" in data:
        return {"of": _restrict(data["of"], where), "except": data["except"]}
    kept = {key: value for key, value in data.items() if key not in where}
    return kept | {key: value for key, value in where.items() if value is not None}


def expand_steps(level: object) -> list[object]:
    """The windows that a word stands for ("thirds", "windows N"), else only the level itself."""
    windows = re.fullmatch(r"thirds|windows (\d+)", level.strip()) if isinstance(level, str) else None
    if not windows:
        return [level]
    count = int(windows[1] or 3)
    if not 1 <= count <= 100:
        raise StudyError(f"{level}: expected 1 to 100 windows")
    edges = [round(100 * i / count) for i in range(count + 1)]
    return [f"{first}%-{last}%" for first, last in zip(edges, edges[1:], strict=False)]


def steps_level(level: object, executed: int, factor: str) -> list[int] | None:
    """Executed steps of one level, None: all. Raises StudyError on an unknown level or an empty window."""
    if isinstance(level, list | tuple):
        return list(level)
    if isinstance(level, int) and not isinstance(level, bool):
        return [level]
    word = level.strip() if isinstance(level, str) else ""
    share = re.fullmatch(r"(\d+)%-(\d+)%", word)
    if word == "all":
        return None
    if share:
        first, last = (round(executed * int(edge) / 100) for edge in share.groups())
        if not 0 <= first < last <= executed:
            raise StudyError(f"{factor} {level!r}: it contains none of the {executed} executed steps")
        return list(range(first, last))
    if re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", word):
        steps: list[int] = []
        for part in word.split(","):
            first, _, last = part.partition("-")
            steps += range(int(first), int(last or first) + 1)
        return steps
    raise StudyError(f"{factor} {level!r}: allowed are {STEP_LEVELS}")


def heads_level(level: object, factor: str) -> list[int] | None:
    """Head indices of one level, None: all."""
    if level == "all":
        return None
    if isinstance(level, int) and not isinstance(level, bool):
        return [level]
    if isinstance(level, list | tuple):
        return list(level)
    if isinstance(level, str) and re.fullmatch(r"\d+(,\d+)*", level.strip()):
        return [int(part) for part in level.split(",")]
    raise StudyError(f"{factor} {level!r}: allowed are all, head indices (0; 0,3), a list; and the list of levels 'each'")


BRANCH_LEVELS = {"both": None, "text": ["text"], "negative": ["negative"]}


def branches_level(level: object, factor: str) -> list[str] | None:
    """Branches of one level, None: both."""
    if not isinstance(level, str) or level not in BRANCH_LEVELS:
        raise StudyError(f"{factor} {level!r}: allowed are {', '.join(BRANCH_LEVELS)}")
    return BRANCH_LEVELS[level]
