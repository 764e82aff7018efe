"""Sites, and placements: at which sites, steps, heads and branches something acts."""

# pyright: reportUnnecessaryIsInstance=false
# Arguments are also checked at run time, because a caller may not check types and JSON has none.

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import reduce
from typing import Any, TypeVar, cast

from .numbers import plain

NEGATIVE, TEXT = 0, 1  # branches of classifier-free guidance, in batch order
BRANCHES = ("negative", "text")

# The one table of points: kind of site -> point -> axes after (branch image), in order of execution. A point is where a tensor can be
# read and edited. In self-attention the keys are the picture's tokens too, in cross-attention they are the text's.
MAP_AXES = ("head", "query", "key")
AXES = {
    "stream": ("query", "channel"),
    "x": ("query", "channel"),
    "q": ("head", "query", "channel"),
    "k": ("head", "key", "channel"),
    "v": ("head", "key", "channel"),
    "scores": MAP_AXES,
    "logits": MAP_AXES,
    "probs": MAP_AXES,
    "head_out": ("head", "query", "channel"),
    "out": ("query", "channel"),
}
FF_AXES: dict[str, tuple[str, ...]] = dict.fromkeys(("stream", "x", "hidden", "out"), ("query", "channel"))
# Of residual blocks, transformers, resamplings and the convolutions at both ends. Each has those of the points that its `widths` name.
BLOCK_AXES = {
    point: ("channel",) if point == "time" else ("channel", "row", "column")
    for point in ("x", "skip", "act1", "conv1", "time", "act2", "conv2", "out")
}
AXES_OF = {"self": AXES, "cross": AXES, "ff": FF_AXES, "block": BLOCK_AXES}
POINTS, FF_POINTS, BLOCK_POINTS = tuple(AXES), tuple(FF_AXES), tuple(BLOCK_AXES)
MAP_POINTS = tuple(point for point, axes in AXES.items() if axes == MAP_AXES)  # these exist only in the explicit form


@dataclass(frozen=True)
class Site:
    """One place in the UNet where tensors can be read and edited: an attention module, a feed-forward, or a block around them.

    name: {down|mid|up}.{level}.{attn|res}.{index}.{self|cross|ff|block}, in execution order; of what lies between and around the blocks
    the name of the module itself ("down.0.downsample", "conv_in"). kind: "self", "cross", "ff" or "block".
    layer: number of the transformer block in execution order (0..15 for SD), -1 for kind "block".
    stride: latent pixels per token, along one side. heads: attention heads, 0 where there are none.
    widths: channels of the tensors at the points that have a channel axis; empty if the network is not available. strides: by point,
    where a point has another stride (the result of a resampling). Sites are compared by the other fields only.
    """

    name: str
    kind: str
    layer: int
    stride: int
    heads: int
    widths: Mapping[str, int] = field(default_factory=dict[str, int], compare=False, repr=False)
    strides: Mapping[str, int] = field(default_factory=dict[str, int], compare=False, repr=False)

    def __str__(self) -> str:
        return self.name

    @property
    def points(self) -> tuple[str, ...]:
        """The points at this site, in the order in which a tensor passes them."""
        known = AXES_OF[self.kind]
        return tuple(point for point in known if point in self.widths) if self.kind == "block" and self.widths else tuple(known)

    def axes(self, point: str) -> tuple[str, ...]:
        """Names of the axes after (branch, image) at a point of this site."""
        return AXES_OF[self.kind][point]

    def hw(self, latent: tuple[int, int], point: str | None = None) -> tuple[int, int]:
        """Height and width of the token map (of the feature map for blocks) at a point, from the latent's."""
        stride = self.stride if point is None else self.strides.get(point, self.stride)
        return latent[0] // stride, latent[1] // stride


@dataclass(frozen=True, init=False, repr=False)
class Placement:
    """Where and when something acts: sites x steps x heads x branches, with | and - for unions and differences.

    site_patterns: shell patterns on site names ("up.*", "mid.*"), case-sensitive.
    steps: executed steps, 0 first (a range or a list); None: all. heads: head indices; None: all.
    branches: NEGATIVE (0) and TEXT (1), or their names "negative" and "text".
    Raises ValueError on an empty or negative entry; a pattern that matches no site is an error when it is used
    (`check`), because only then the sites are known.
    """

    patterns: tuple[str, ...]
    numbers: tuple[int, ...]
    steps: tuple[int, ...] | None
    heads: tuple[int, ...] | None
    branches: tuple[int, ...]
    operation: str  # "leaf", "or", "minus"
    parts: tuple["Placement", ...]

    def __init__(
        self,
        *site_patterns: str,
        steps: Iterable[int] | None = None,
        heads: Iterable[int] | None = None,
        branches: Iterable[int | str] = (NEGATIVE, TEXT),
    ) -> None:
        self._fill(patterns=site_patterns, steps=steps, heads=heads, branches=branches)

    def _fill(
        self, *, patterns: Iterable[str] = (), numbers: Iterable[int] = (), steps: Iterable[int] | None = None,
        heads: Iterable[int] | None = None, branches: Iterable[int | str] = (NEGATIVE, TEXT), operation: str = "leaf",
        parts: "tuple[Placement, ...]" = (),
    ) -> None:  # fmt: skip
        sites = _listed(patterns, "sites")
        for pattern in sites:
            if not isinstance(pattern, str) or not pattern:
                raise ValueError(f"site pattern {pattern!r}: give text such as 'up.*' or use Placement.layers(3, 11)")
        values = {
            "patterns": sites,
            "numbers": _indices(numbers, "layers"),
            "steps": None if steps is None else _some(_indices(steps, "steps"), "steps"),
            "heads": None if heads is None else _some(_indices(heads, "heads"), "heads"),
            "branches": _some(_branches(branches), "branches"),
            "operation": operation,
            "parts": tuple(parts),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @classmethod
    def layers(
        cls,
        start: int | Sequence[int],
        stop: int | None = None,
        *,
        steps: Iterable[int] | None = None,
        heads: Iterable[int] | None = None,
        branches: Iterable[int | str] = (NEGATIVE, TEXT),
    ) -> "Placement":
        """By the released numbering of transformer blocks: layers(3, 11) is half-open, layers([3, 5, 8]) a list."""
        start, stop = plain(start), plain(stop)
        if isinstance(start, int):
            if stop is None or stop <= start:
                raise ValueError(f"layers({start}, {stop}): give a half-open range with stop > start, or a list")
            numbers: Sequence[int] = range(start, stop)
        elif stop is not None:
            raise ValueError("layers: give either a range (start, stop) or one list of numbers")
        else:
            numbers = _some(_listed(start, "layers"), "layers")
        placement = cls.__new__(cls)
        placement._fill(numbers=numbers, steps=steps, heads=heads, branches=branches)
        return placement

    @classmethod
    def nowhere(cls) -> "Placement":
        """Acts at no site."""
        return cls()

    def _combined(self, other: "Placement", operation: str) -> "Placement":
        placement = Placement.__new__(Placement)
        placement._fill(operation=operation, parts=(self, other))
        return placement

    def __or__(self, other: "Placement") -> "Placement":
        return self._combined(other, "or")

    def __sub__(self, other: "Placement") -> "Placement":
        return self._combined(other, "minus")

    def __repr__(self) -> str:
        if self.operation != "leaf":
            first, second = self.parts
            return f"({first!r} {'|' if self.operation == 'or' else '-'} {second!r})"
        where = [f"{name}={_as_range(getattr(self, name))}" for name in ("steps", "heads") if getattr(self, name) is not None]
        where += [f"branches=[{', '.join(repr(BRANCHES[b]) for b in self.branches)}]"] if self.branches != (NEGATIVE, TEXT) else []
        named = [f"Placement({', '.join([*map(repr, self.patterns), *where])})"] if self.patterns or not self.numbers else []
        if self.numbers:
            listed = _as_range(self.numbers)
            numbers = listed[len("range(") : -1] if listed.startswith("range") else listed
            named.insert(0, f"Placement.layers({', '.join([numbers, *where])})")
        return named[0] if len(named) == 1 else f"({' | '.join(named)})"

    def matches(self, site: Site) -> bool:
        """Whether this site is named, at any step, head and branch (a difference may still leave nothing there)."""
        if self.operation == "leaf":
            return site.layer in self.numbers or any(fnmatchcase(site.name, pattern) for pattern in self.patterns)
        return self.parts[0].matches(site) or (self.operation == "or" and self.parts[1].matches(site))

    def heads_at(self, site: Site, step: int, branch: int) -> frozenset[int]:
        """The heads at which it acts, for one site, executed step and branch."""
        if self.operation == "or":
            return self.parts[0].heads_at(site, step, branch) | self.parts[1].heads_at(site, step, branch)
        if self.operation == "minus":
            return self.parts[0].heads_at(site, step, branch) - self.parts[1].heads_at(site, step, branch)
        if branch not in self.branches or (self.steps is not None and step not in self.steps) or not self.matches(site):
            return frozenset()
        return frozenset(range(site.heads) if self.heads is None else (h for h in self.heads if h < site.heads))

    def check(self, sites: Sequence[Site], kind: str, steps: int | None = None) -> None:
        """Raises ValueError if a pattern, layer, head or step matches nothing: a typo must not silently mean "off".

        sites: of the UNet. kind: "self" or "cross". steps: executed steps of the run, None if unknown.
        """
        for part in self.parts:
            part.check(sites, kind, steps)
        known = [site for site in sites if site.kind == kind]
        for pattern in self.patterns:
            if not any(fnmatchcase(site.name, pattern) for site in known):
                names = f"{known[0]} ... {known[-1]}"
                raise ValueError(f"site pattern {pattern!r} matches none of the {len(known)} {kind}-attention sites ({names})")
        top = max(site.layer for site in known)
        outside = [number for number in self.numbers if number > top]
        if outside:
            raise ValueError(f"layers {outside}: this UNet has layers 0..{top}")
        named = [site for site in known if self.matches(site)]
        outside = [head for head in self.heads or () if named and all(head >= site.heads for site in named)]
        if outside:
            raise ValueError(f"heads {outside}: these sites have at most {max(site.heads for site in named)} heads")
        if steps is not None and (late := [step for step in self.steps or () if step >= steps]):
            raise ValueError(f"steps {late}: this run executes {steps} steps, numbered 0..{steps - 1}")

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON file; `from_json` gives an equal placement back."""
        if self.operation == "or":
            return {"any": [part.to_json() for part in self.parts]}
        if self.operation == "minus":
            return {"of": self.parts[0].to_json(), "except": self.parts[1].to_json()}
        out: dict[str, Any] = {}
        if self.numbers:
            out["layers"] = list(self.numbers)
        if self.patterns or not self.numbers:
            out["sites"] = list(self.patterns)
        for name in ("steps", "heads"):
            if getattr(self, name) is not None:
                out[name] = list(getattr(self, name))
        if self.branches != (NEGATIVE, TEXT):
            out["branches"] = [BRANCHES[branch] for branch in self.branches]
        return out

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Placement":
        """Raises ValueError on unknown keys."""
        if not isinstance(data, dict):
            raise ValueError(f"placement {data!r}: give an object with 'layers' or 'sites'")
        unknown = set(data) - {"any", "of", "except", "layers", "sites", "steps", "heads", "branches"}
        if unknown:
            raise ValueError(f"placement: unknown keys {sorted(unknown)}")
        if "any" in data:
            if set(data) != {"any"} or not isinstance(data["any"], list) or not data["any"]:
                raise ValueError("placement: 'any' takes a list of placements and allows no other keys")
            parts = [cls.from_json(part) for part in cast("list[Any]", data["any"])]
            return reduce(lambda one, other: one | other, parts)
        if "of" in data or "except" in data:
            if set(data) != {"of", "except"}:
                raise ValueError("placement: 'of' and 'except' must be given together and allow no other keys")
            return cls.from_json(data["of"]) - cls.from_json(data["except"])
        placement = cls.__new__(cls)
        placement._fill(
            patterns=data.get("sites", ()),
            numbers=data.get("layers", ()),
            steps=data.get("steps"),
            heads=data.get("heads"),
            branches=data.get("branches", (NEGATIVE, TEXT)),
        )
        return placement


Entry = TypeVar("Entry")


def _listed(values: Iterable[Entry], what: str) -> tuple[Entry, ...]:
    """Refuses text, which is iterable letter by letter but never meant so."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ValueError(f"{what} {values!r}: give a list")
    return tuple(plain(value) for value in values)


def _as_range(values: tuple[int, ...]) -> str:
    """Ascending numbers in short form: range(3, 11) if none is missing, else a list."""
    numbers = list(values)
    whole = len(numbers) > 2 and numbers == list(range(numbers[0], numbers[-1] + 1))
    return f"range({numbers[0]}, {numbers[-1] + 1})" if whole else str(numbers)


def _some(values: tuple[Entry, ...], what: str) -> tuple[Entry, ...]:
    if not values:
        raise ValueError(f"{what} (): give at least one; for nowhere use Placement.nowhere(), or None for off")
    return values


def _indices(values: Iterable[int], what: str) -> tuple[int, ...]:
    values = _listed(values, what)
    bad = [value for value in values if isinstance(value, bool) or not isinstance(value, int) or value < 0]
    if bad:
        raise ValueError(f"{what} {bad}: expected whole numbers of at least 0")
    return tuple(sorted(set(values)))


def _branches(values: Iterable[int | str]) -> tuple[int, ...]:
    known = {NEGATIVE: NEGATIVE, TEXT: TEXT, "negative": NEGATIVE, "text": TEXT}
    values = _listed(values, "branches")
    unknown = [value for value in values if value not in list(known)]  # a list, because values may be unhashable
    if unknown:
        raise ValueError(f"branches {unknown}: allowed are 0 or 'negative', 1 or 'text'")
    return tuple(sorted({known[value] for value in values}))
