"""Parts and tensors that a checkpoint holds twice, under old and new names, as merges leave them: one of two equal copies is taken.

Reads the copies' numbers, which nothing else does before the load; a checkpoint without copies is never read here.
Place in the flow: after parts.to_ours, in load.open_checkpoint and survey.survey.
"""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace

import torch

from . import parts
from .errors import WeightsError
from .files import Found
from .header import FLOATS
from .parts import Group, Mapped, Piece
from .reader import open_unchanged, read_piece


def settle_names(found: Found, mapped: Mapped) -> Mapped:
    """The same without the names that two equal tensors claim; what differs stays there twice, which no module fits."""
    twice = {name: theirs for name, theirs in mapped.twice.items() if not _all_equal(found, [Piece(info) for info in theirs])}
    settled = mapped.twice.keys() - twice.keys()
    unused = [info.name for name in settled for info in mapped.twice[name] if info != mapped.pieces[name].info]
    return replace(mapped, twice=twice, unused=[*mapped.unused, *unused])


def one_of(found: Found, groups: Sequence[Group], name: str) -> tuple[Group, list[str]]:
    """Of groups that are one part under several prefixes the most complete one, and a note on each copy that is ignored.

    name: the part's, in words. Raises WeightsError, naming the part, where a copy differs or holds what the other lacks.
    """
    mapped = {id(group): parts.to_ours(group) for group in groups}
    best, *rest = sorted(groups, key=lambda group: -len(mapped[id(group)].pieces))
    notes = []
    for copy in rest:
        ours, theirs = mapped[id(best)].pieces, mapped[id(copy)].pieces
        where = f"under {best.prefix!r} and under {copy.prefix!r}"
        alone = [piece.info.name for key, piece in theirs.items() if key not in ours]
        if alone:
            raise WeightsError(
                f"{found.label}: the {name} is there in two forms, {where}; {len(alone)} tensors are only in the smaller one (the first: "
                f"{alone[0][:160]}): remove one form"
            )
        differing = [piece.info.name for key, piece in theirs.items() if not _all_equal(found, [ours[key], piece])]
        if differing:
            raise WeightsError(
                f"{found.label}: the {name} is there twice, {where}, and {len(differing)} tensors differ (the first: "
                f"{differing[0][:160]}): nothing says which is meant; remove one"
            )
        notes.append(f"{name}: there twice, {where}, with equal numbers; the first was taken")
    return best, notes


def _all_equal(found: Found, pieces: Iterable[Piece]) -> bool:
    """Whether all hold the same numbers in the same shape."""
    first, *others = pieces
    if any(piece.shape != first.shape for piece in others) or any(piece.info.dtype not in FLOATS for piece in (first, *others)):
        return False
    with ExitStack() as stack:
        files = {header.path: stack.enter_context(open_unchanged(header)) for header in found.headers}
        numbers = read_piece(files, first)
        return all(torch.equal(numbers, read_piece(files, piece)) for piece in others)
