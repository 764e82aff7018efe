"""The strict comparison of a checkpoint's part with a module: either everything fits, or one error lists all differences.

Place in the flow: before reader.py reads the first byte.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import nn

from .errors import WeightsError
from .header import FLOATS
from .parts import Mapped, Piece

SHOWN = 8


@dataclass(frozen=True)
class Comparison:
    """How a part differs from what a module needs. Names are ours; extra ones as on disk. misshapen: name -> (shape on disk,
    expected shape).
    """

    missing: list[str]
    extra: list[str]
    misshapen: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    twice: dict[str, list[str]]
    mistyped: dict[str, str]
    near: dict[str, str] = field(repr=False)

    @property
    def fits(self) -> bool:
        """Whether everything fits."""
        return not (self.missing or self.extra or self.misshapen or self.twice or self.mistyped)

    def lines(self) -> list[str]:
        """One line per kind of difference: count, the first eight names, the most similar names."""
        result = []
        for kind, names in (
            ("missing", [name + (f" (most similar: {self.near[name]})" if name in self.near else "") for name in self.missing]),
            ("extra", self.extra),
            (
                "of the wrong shape",
                [f"{name} {list(held)} instead of {list(want)}" for name, (held, want) in self.misshapen.items()],
            ),
            ("present twice", [f"{name} ({' and '.join(theirs)})" for name, theirs in self.twice.items()]),
            ("of a type that weights cannot have", [f"{name} ({dtype})" for name, dtype in self.mistyped.items()]),
        ):
            if names:
                more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
                result.append(f"{len(names)} {kind}: {', '.join(name[:160] for name in names[:SHOWN])}{more}")
        return result


def fits(held: tuple[int, ...], want: tuple[int, ...]) -> bool:
    """Whether a tensor's shape is the parameter's; a 1x1 convolution [a, b, 1, 1] on disk is the linear layer [a, b]."""
    return held == want or (len(held) == 4 and len(want) == 2 and held == (*want, 1, 1))


def compare(mapped: Mapped, outside: list[str], module: nn.Module) -> Comparison:
    """A part in our names against a module's state dict; outside: names of the same file that belong to no part."""
    want = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    pieces: Mapping[str, Piece] = mapped.pieces
    missing = [name for name in want if name not in pieces]
    strange = [name for name in pieces if name not in want]
    extra = [pieces[name].info.name for name in strange] + outside
    shared = [name for name in want if name in pieces]
    misshapen = {name: (pieces[name].shape, want[name]) for name in shared if not fits(pieces[name].shape, want[name])}
    mistyped = {name: pieces[name].info.dtype for name in shared if pieces[name].info.dtype not in FLOATS}
    near = {}
    # difflib is quadratic. Long names and long lists mean a foreign file, for which similar names would not help.
    for name in missing[:SHOWN]:
        close = difflib.get_close_matches(name, [other for other in strange[:2000] if len(other) < 200], 1, 0.8)
        if close:
            near[name] = pieces[close[0]].info.name
    twice = {name: [info.name for info in theirs] for name, theirs in mapped.twice.items()}
    return Comparison(missing, extra, misshapen, twice, mistyped, near)


def demand(comparison: Comparison, part: str, label: str, guess: str) -> None:
    """Raises WeightsError unless everything fits. guess: what the file looks like, in words."""
    if not comparison.fits:
        raise WeightsError(f"{label}: its {part} does not fit: {'; '.join(comparison.lines())}. The file looks like {guess}")


def prefixed(mapped: Mapped, module: nn.Module) -> Mapped:
    """Text names with `text_model.` before them where the module has it (transformers' CLIPTextModel before 5.6, and
    its CLIPTextModelWithProjection, whose projection stands outside).
    """
    if not any(name.startswith("text_model.") for name in module.state_dict()):
        return mapped
    inside = {name: name if name.startswith("text_projection.") else f"text_model.{name}" for name in mapped.pieces}
    return replace(mapped, pieces={inside[name]: piece for name, piece in mapped.pieces.items()})
